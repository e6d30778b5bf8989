"""Several changes of coordinates of one tensor, one after the other, rounded once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from unmergeable.gauge.axis_map import Float
from unmergeable.gauge.floats import FORMATS, ROUNDABLE, Bytes, cast, check_finite
from unmergeable.gauge.tensor_map import Change, TensorMap


@dataclass(frozen=True, eq=False)
class TensorChain:
    """Several maps of one tensor, one after the other: rounded once, at the end.

    Attributes:
        maps: the first one first; none of them leaves the tensor as it is.
    """

    maps: tuple[Change, ...]

    @classmethod
    def of(cls, maps: Sequence[Change]) -> Change | TensorChain:
        """Builds the chain, without the maps that do nothing."""
        moving = tuple(change for change in maps if not change.is_identity)
        if len(moving) > 1:
            return cls(moving)
        return moving[0] if moving else TensorMap(())

    @property
    def inverse(self) -> TensorChain:
        """The map back."""
        return TensorChain(tuple(change.inverse for change in reversed(self.maps)))

    @property
    def is_identity(self) -> bool:
        """Whether the tensor stays as it is, as far as can be told without composing."""
        return False

    def __call__(self, array: Float) -> Float:
        """Applies the maps to a float64 array, in float64."""
        for change in self.maps:
            array = change(array)
        return array

    def apply(
        self, data: Bytes, shape: Sequence[int], dtype: str, *, allow_non_finite: bool = False
    ) -> Bytes:
        """Applies the maps to a stored tensor; see [`TensorMap.apply`][].

        Lossless maps work on the bits, one after the other. Others work in float64 on the whole
        tensor, which is cast once, at the end.

        Raises:
            InputError: a NaN or an infinity.
            PrecisionError: a result that the format cannot hold.
            UnsupportedError: a dtype these maps cannot move.
        """
        form = FORMATS.get(dtype)
        if all(change.is_lossless for change in self.maps) or form is None:
            for change in self.maps:
                data = change.apply(data, shape, dtype, allow_non_finite=allow_non_finite)
            return data
        wide = FORMATS["F64"]
        if dtype not in ROUNDABLE:
            rounding = next(change for change in self.maps if not change.is_lossless)
            return rounding.apply(data, shape, dtype)  # says why this dtype is refused
        if not allow_non_finite:
            check_finite(data.view(form.pattern), form)
        moved = form.values(data).view(np.uint8)
        for change in self.maps:
            moved = change.apply(moved, shape, wide.name, allow_non_finite=allow_non_finite)
        return cast(moved.view(np.float64), form, allow_non_finite).view(np.uint8)

    def pieces(
        self, data: Bytes, shape: Sequence[int], dtype: str, *, allow_non_finite: bool = False
    ) -> Iterator[Bytes]:
        """Applies the maps to a stored tensor: one piece, as the second needs all of the first."""
        yield self.apply(data, shape, dtype, allow_non_finite=allow_non_finite)
