"""A stack of matrices in one tensor, each with a map of its own: the fused experts of a layer.

Along its first axis the stack is reordered; each of its slices moves by the map that its old
position has. A slice lies in one piece in memory, so that it is treated as the matrix it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from unmergeable.errors import InputError
from unmergeable.gauge.axis_map import Float, Index
from unmergeable.gauge.floats import Bytes
from unmergeable.gauge.memory import empty
from unmergeable.gauge.tensor_map import TensorMap, check_bytes, check_format


@dataclass(frozen=True, eq=False)
class StackMap:
    """The map `new[i] = slices[source[i]](old[source[i]])`.

    Attributes:
        source: shape (n,), as in `AxisMap`.
        slices: the map of each old slice, n of them.
    """

    source: Index
    slices: tuple[TensorMap, ...]

    @property
    def inverse(self) -> StackMap:
        """The map back."""
        back = [self.slices[old].inverse for old in self.source]
        return StackMap(np.argsort(self.source, kind="stable"), tuple(back))

    @property
    def is_identity(self) -> bool:
        """Whether the tensor stays as it is."""
        stays = bool((self.source == np.arange(len(self.source))).all())
        return stays and all(change.is_identity for change in self.slices)

    @property
    def rows_stay(self) -> bool:
        """See `Change`: it is told of all of the stack, always."""
        return False

    @property
    def is_lossless(self) -> bool:
        """Whether only permutations, signs and powers of two are at work."""
        return all(change.is_lossless for change in self.slices)

    @property
    def has_scales(self) -> bool:
        """Whether some magnitude changes."""
        return any(change.has_scales for change in self.slices)

    def check_shape(self, shape: Sequence[int]) -> None:
        """See `Change`; each slice's own map is checked with the slice."""
        if not shape or shape[0] != len(self.source):
            raise InputError(
                f"a tensor of shape {tuple(shape)} is no stack of {len(self.source)} matrices. Is "
                "it a tensor of this model?"
            )

    def __call__(self, array: Float) -> Float:
        """Applies the map to a float64 array of shape (n, ...), in float64."""
        return np.stack([self.slices[old](array[old]) for old in self.source])

    def apply(
        self,
        data: Bytes,
        shape: Sequence[int],
        dtype: str,
        *,
        allow_non_finite: bool = False,
        rounds: bool = False,
    ) -> Bytes:
        """Applies the map to a stored tensor; see [`TensorMap.apply`][].

        Raises:
            InputError: a NaN or an infinity; a shape that is not the map's, or not the data's.
            PrecisionError: a result that the format cannot hold.
            UnsupportedError: a dtype this map cannot move.
        """
        if self.is_identity:
            whole = TensorMap((None,) * len(shape))
            return whole.apply(data, shape, dtype, allow_non_finite=allow_non_finite)
        new, done = empty(data.nbytes), 0
        if rounds:
            old = data.reshape(len(self.source), -1)
            for position, part in zip(self.source, new.reshape(old.shape), strict=True):
                part[:] = self.slices[position].apply(
                    old[position], shape[1:], dtype, allow_non_finite=allow_non_finite, rounds=True
                )
            return new
        for piece in self.pieces(data, shape, dtype, allow_non_finite=allow_non_finite):
            new[done : done + len(piece)] = piece
            done += len(piece)
        return new

    def pieces(
        self, data: Bytes, shape: Sequence[int], dtype: str, *, allow_non_finite: bool = False
    ) -> Iterator[Bytes]:
        """Applies the map to a stored tensor; see [`TensorMap.pieces`][]."""
        check_format(self, dtype)
        check_bytes(data, shape, dtype)
        self.check_shape(shape)
        old = data.reshape(len(self.source), -1)
        for position in self.source:
            yield from self.slices[position].pieces(
                old[position], shape[1:], dtype, allow_non_finite=allow_non_finite
            )
