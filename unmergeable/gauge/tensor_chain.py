"""Several changes of coordinates of one tensor, one after the other, rounded once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from unmergeable.gauge.axis_map import Float
from unmergeable.gauge.floats import FORMATS, ROUNDABLE, Bytes, cast, check_finite
from unmergeable.gauge.memory import empty
from unmergeable.gauge.row_pieces import RowPiece, row_pieces
from unmergeable.gauge.tensor_map import Change, TensorMap, check_bytes

# Numbers that are held in float64 together, if rows do not mix more.
HELD = 1 << 22


@dataclass(frozen=True, eq=False)
class TensorChain:
    """Several maps of one tensor, one after the other: rounded once, at the end.

    Attributes:
        maps: the first one first; none of them leaves the tensor as it is.
    """

    maps: tuple[Change, ...]

    @classmethod
    def of(cls, maps: Sequence[Change | TensorChain]) -> Change | TensorChain:
        """Builds the chain of maps and of chains, without the maps that do nothing."""
        each = (m.maps if isinstance(m, TensorChain) else (m,) for m in maps)
        moving = tuple(change for some in each for change in some if not change.is_identity)
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

    @property
    def rows_stay(self) -> bool:
        """See `Change`."""
        return all(change.rows_stay for change in self.maps)

    def __call__(self, array: Float) -> Float:
        """Applies the maps to a float64 array, in float64."""
        for change in self.maps:
            array = change(array)
        return array

    def apply(
        self, data: Bytes, shape: Sequence[int], dtype: str, *, allow_non_finite: bool = False
    ) -> Bytes:
        """Applies the maps to a stored tensor; see [`TensorMap.apply`][].

        Lossless maps work on the bits, one after the other. Others work in float64, which is cast
        once, at the end: piece by piece of rows, where these do not all mix.

        Raises:
            InputError: a NaN or an infinity; a shape that is not the maps', or not the data's.
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
        check_bytes(data, shape, dtype)
        for change in self.maps:
            change.check_shape(shape)
        if not allow_non_finite:
            check_finite(data.view(form.pattern), form)
        numbers = data.view(form.number).reshape(shape[0] if shape else 1, -1)
        out = empty(data.nbytes).view(form.pattern).reshape(numbers.shape)
        for piece in self._row_pieces(*numbers.shape):
            moved = form.values(numbers[piece.old].reshape(-1).view(np.uint8)).view(np.uint8)
            size = (len(piece.old), *shape[1:]) if shape else ()
            for change, part in zip(self.maps, piece.maps, strict=True):
                if isinstance(change, TensorMap):
                    change = TensorMap.of((part, *change.axes[1:]))
                moved = change.apply(moved, size, wide.name, allow_non_finite=allow_non_finite)
            made = cast(moved.view(np.float64), form, allow_non_finite)
            out[piece.new] = made.reshape(len(piece.new), -1)
        return out.reshape(-1).view(np.uint8)

    def pieces(
        self, data: Bytes, shape: Sequence[int], dtype: str, *, allow_non_finite: bool = False
    ) -> Iterator[Bytes]:
        """Applies the maps to a stored tensor: one piece, as rows come out in any order."""
        yield self.apply(data, shape, dtype, allow_non_finite=allow_non_finite)

    def _row_pieces(self, rows: int, columns: int) -> Iterable[RowPiece]:
        """Rows of the tensor that do not mix with others, about as many as may be held."""
        axes = [change.axes[0] if isinstance(change, TensorMap) else None for change in self.maps]
        wanted = max(1, HELD // max(1, columns))
        stacked = not all(isinstance(change, TensorMap) for change in self.maps)
        if stacked or rows <= wanted:
            every = np.arange(rows)
            return [RowPiece(every, every, tuple(axes))]
        return row_pieces(axes, rows, wanted)
