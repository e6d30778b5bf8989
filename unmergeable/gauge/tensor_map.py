"""One change of coordinates of a whole tensor, applied to its bits or, where it rounds, in float64.

A tensor is treated as a matrix: at most two of its axes move. A lossless map is integer work only,
in `lossless`. Any other map is computed in float64, rows and columns together, and cast once, in
`rounding`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np

from unmergeable.errors import InputError, PrecisionError, UnsupportedError
from unmergeable.gauge.axis_map import AxisMap, Float
from unmergeable.gauge.floats import FORMATS, ROUNDABLE, Bytes, check_finite
from unmergeable.gauge.lossless import Bits
from unmergeable.gauge.memory import empty
from unmergeable.gauge.rounding import Values

# Of output that is made at once: the reader finds it in the processor's cache.
PIECE = 1 << 20


class Change(Protocol):
    """What a tensor undergoes: a `TensorMap`, or a `StackMap` of several."""

    @property
    def inverse(self) -> Change:
        """The map back."""

    @property
    def is_identity(self) -> bool:
        """Whether the tensor stays as it is."""

    @property
    def rows_stay(self) -> bool:
        """Whether rows, along the first axis, can be changed without the others, where they are."""

    @property
    def is_lossless(self) -> bool:
        """Whether only permutations, signs and powers of two are at work."""

    @property
    def has_scales(self) -> bool:
        """Whether some magnitude changes."""

    def check_shape(self, shape: Sequence[int]) -> None:
        """Refuses a tensor of another shape than the map's.

        Raises:
            InputError: it is of another.
        """

    def __call__(self, array: Float) -> Float:
        """Applies the map in float64."""

    def apply(
        self,
        data: Bytes,
        shape: Sequence[int],
        dtype: str,
        *,
        allow_non_finite: bool = False,
        rounds: bool = False,
    ) -> Bytes:
        """Applies the map to a stored tensor; see [`TensorMap.apply`][]."""

    def pieces(
        self, data: Bytes, shape: Sequence[int], dtype: str, *, allow_non_finite: bool = False
    ) -> Iterator[Bytes]:
        """What `apply` gives, piece after piece; see [`TensorMap.pieces`][]."""


@dataclass(frozen=True, eq=False)
class TensorMap:
    """A map for each axis of a tensor; None for an axis that stays.

    Attributes:
        axes: one entry per dimension.
    """

    axes: tuple[AxisMap | None, ...]

    @classmethod
    def of(cls, axes: Sequence[AxisMap | None]) -> TensorMap:
        """Builds the map, with identities recognised as axes that stay."""
        return cls(tuple(None if axis is None or axis.is_identity else axis for axis in axes))

    @property
    def inverse(self) -> TensorMap:
        """The map back."""
        return TensorMap(tuple(axis.inverse if axis else None for axis in self.axes))

    @property
    def is_identity(self) -> bool:
        """Whether the tensor stays as it is."""
        return not any(self.axes)

    @property
    def rows_stay(self) -> bool:
        """Whether rows, along the first axis, can be changed without the others, where they are."""
        return not (self.axes and self.axes[0])

    @property
    def is_lossless(self) -> bool:
        """Whether only permutations, signs and powers of two are at work."""
        return all(axis.is_lossless for axis in self.axes if axis)

    @property
    def has_scales(self) -> bool:
        """Whether some magnitude changes."""
        scales = (axis.scale for axis in self.axes if axis)
        return any(scale is None or bool((np.abs(scale) != 1).any()) for scale in scales)

    def check_shape(self, shape: Sequence[int]) -> None:
        """See `Change`. A map without axes is the identity of every shape."""
        sizes = tuple(axis.size if axis else None for axis in self.axes)
        if not sizes or (
            len(sizes) == len(shape)
            and all(size in (None, n) for size, n in zip(sizes, shape, strict=True))
        ):
            return
        wanted = ", ".join("any" if size is None else str(size) for size in sizes)
        raise InputError(
            f"a tensor of shape {tuple(shape)} cannot move by a change of coordinates of shape "
            f"({wanted}). Is it a tensor of this model?"
        )

    def __call__(self, array: Float) -> Float:
        """Applies the map to a float64 array of any shape, in float64: the plain definition."""
        for axis, change in enumerate(self.axes):
            if change is not None:
                array = change(array, axis)
        return array

    def apply(
        self,
        data: Bytes,
        shape: Sequence[int],
        dtype: str,
        *,
        allow_non_finite: bool = False,
        rounds: bool = False,
    ) -> Bytes:
        """Applies the map to a stored tensor.

        Args:
            data: the tensor's bytes, row-major, little-endian, shape (nbytes,) of uint8.
            shape: its dimensions.
            dtype: its format's name in safetensors headers.
            allow_non_finite: let infinities and NaN pass; they move with their positions.
            rounds: round, instead of refusing, what a power of two cannot keep.

        Returns:
            The bytes of the moved tensor, same shape and format; `data` itself if nothing moves.

        Raises:
            InputError: a NaN or an infinity; a shape that is not the map's, or not the data's.
            PrecisionError: a power of two that would overflow or lose bits to a subnormal.
            UnsupportedError: a dtype this map cannot move.
        """
        how = allow_non_finite, True, rounds
        try:
            return next(self._pieces(data, shape, dtype, *how))
        except PrecisionError:
            if not rounds or not self.is_lossless:
                raise
        return next(self._pieces(data, shape, dtype, *how, kind=Values))

    def pieces(
        self, data: Bytes, shape: Sequence[int], dtype: str, *, allow_non_finite: bool = False
    ) -> Iterator[Bytes]:
        """Applies the map to a stored tensor; arguments and errors are those of `apply`.

        Yields:
            The bytes of the moved tensor, in order. Each piece is there until the next one is asked
            for, which takes its place.
        """
        return self._pieces(data, shape, dtype, allow_non_finite, whole=False)

    def _pieces(
        self,
        data: Bytes,
        shape: Sequence[int],
        dtype: str,
        allow_non_finite: bool,
        whole: bool,
        rounds: bool = False,
        kind: type[Bits | Values] | None = None,
    ) -> Iterator[Bytes]:
        form = FORMATS.get(dtype)
        if form is None or not rounds:
            check_format(self, dtype)
        check_bytes(data, shape, dtype)
        self.check_shape(shape)
        if form is None or self.is_identity:
            if form is not None and not allow_non_finite:
                check_finite(data.view(form.pattern), form)
            yield data
            return
        (rows, columns), maps = _as_matrix(shape, self.axes)
        source = data.view(form.pattern).reshape(rows, columns)
        width = columns * source.itemsize
        step = max(1, PIECE // max(1, width))
        if whole:
            cuts = [0, rows]
        elif maps[0]:
            cuts = maps[0].cuts(step)
        else:
            cuts = [*range(0, rows, step), rows]
        if kind is None:
            kind = Bits if self.is_lossless else Values
        move = kind(*maps, form, allow_non_finite)
        most = max((stop - start for start, stop in pairwise(cuts)), default=0)
        memory = empty(width * most)
        for start, stop in pairwise(cuts):
            piece = memory[: width * (stop - start)]
            move(source, piece.view(form.pattern).reshape(stop - start, columns), start)
            yield piece


def check_format(change: Change, dtype: str) -> None:
    """Refuses what a dtype cannot follow.

    Raises:
        UnsupportedError: a dtype that a map cannot move.
    """
    if dtype in ROUNDABLE or change.is_identity:
        return
    if dtype not in FORMATS:
        raise UnsupportedError(
            f"dtype {dtype} cannot be moved: only {', '.join(FORMATS)} can. Leave its spaces "
            "alone with --set spaces=..., or convert the model first."
        )
    if not change.is_lossless:
        raise UnsupportedError(
            f"dtype {dtype} can be moved but not rotated. Use the lossless lock "
            "(--set kind=lossless) or a wider dtype."
        )
    if change.has_scales:
        raise UnsupportedError(
            f"dtype {dtype} is too narrow for powers of two. Lock with --set scales=false, "
            "which uses permutations and signs only."
        )


def check_bytes(data: Bytes, shape: Sequence[int], dtype: str) -> None:
    """Refuses data that are not as long as a shape and a format say.

    Raises:
        InputError: they are not.
    """
    form = FORMATS.get(dtype)
    wanted = data.nbytes if form is None else math.prod(shape) * form.pattern.itemsize
    if data.nbytes != wanted or min(shape, default=0) < 0:
        raise InputError(
            f"a tensor of shape {tuple(shape)} and dtype {dtype} has {data.nbytes} bytes instead "
            f"of {wanted}. Its file is damaged."
        )


def _as_matrix(
    shape: Sequence[int], axes: Sequence[AxisMap | None]
) -> tuple[tuple[int, int], tuple[AxisMap | None, AxisMap | None]]:
    """Folds a tensor's fixed axes into its moved ones: rows and columns, and the map of each."""
    moved = [axis for axis, change in enumerate(axes) if change is not None]
    if len(moved) == 1:
        (axis,) = moved
        before, after = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
        if after == 1 and before > 1:
            return (before, shape[axis]), (None, axes[axis])
        if before == 1:
            return (shape[axis], after), (axes[axis], None)
        return (before, shape[axis] * after), (None, _repeated(axes[axis], after))
    if len(moved) == 2 and math.prod(shape[: moved[0]]) == 1:
        one, two = moved
        if math.prod(shape[one + 1 : two]) == 1:
            after = math.prod(shape[two + 1 :])
            return (shape[one], shape[two] * after), (axes[one], _repeated(axes[two], after))
    raise UnsupportedError(
        f"a tensor of shape {tuple(shape)} that moves along axes {moved} cannot be laid out as a "
        "matrix. Declare its axes so that at most two move, with none of length above one between."
    )


def _repeated(change: AxisMap | None, after: int) -> AxisMap | None:
    """A map of an axis, on that axis and the fixed ones after it (a kernel's width) as one."""
    if change is None or after == 1:
        return change
    source = (change.source[:, None] * after + np.arange(after)).reshape(-1)
    factors = (
        np.repeat(run, after)
        if run.ndim == 1
        else np.asarray(np.kron(run, np.eye(after)[None]), np.float64)
        for run in change.factors
    )
    return AxisMap(source, tuple(factors))
