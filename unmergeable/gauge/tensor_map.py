"""One change of coordinates of a whole tensor, applied to its bits or, where it rounds, in float64.

A tensor is treated as a matrix: at most two of its axes move. Output rows are made in blocks that
fit a core's cache. A lossless map is integer work only: gathers, XOR on the sign bit, addition on
the exponent field. Any other map is computed in float64, rows and columns together, and cast once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from unmergeable.errors import InputError, PrecisionError, UnsupportedError
from unmergeable.gauge.axis_map import AxisMap, Float, Index
from unmergeable.gauge.floats import FORMATS, ROUNDABLE, Format

BLOCK_BYTES = 1 << 18

Array = npt.NDArray[np.generic]
Bytes = npt.NDArray[np.uint8]
Pattern = npt.NDArray[np.unsignedinteger]


class Change(Protocol):
    """What a tensor undergoes: a `TensorMap`, or a `StackMap` of several."""

    @property
    def inverse(self) -> Change:
        """The map back."""

    @property
    def is_identity(self) -> bool:
        """Whether the tensor stays as it is."""

    @property
    def is_lossless(self) -> bool:
        """Whether only permutations, signs and powers of two are at work."""

    @property
    def has_scales(self) -> bool:
        """Whether some magnitude changes."""

    def __call__(self, array: Float) -> Float:
        """Applies the map in float64."""

    def apply(
        self, data: Bytes, shape: Sequence[int], dtype: str, *, allow_non_finite: bool = False
    ) -> Bytes:
        """Applies the map to a stored tensor; see [`TensorMap.apply`][]."""


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
    def is_lossless(self) -> bool:
        """Whether only permutations, signs and powers of two are at work."""
        return all(axis.is_lossless for axis in self.axes if axis)

    @property
    def has_scales(self) -> bool:
        """Whether some magnitude changes."""
        scales = (axis.scale for axis in self.axes if axis)
        return any(scale is None or bool((np.abs(scale) != 1).any()) for scale in scales)

    def __call__(self, array: Float) -> Float:
        """Applies the map to a float64 array of any shape, in float64: the plain definition."""
        for axis, change in enumerate(self.axes):
            if change is not None:
                array = change(array, axis)
        return array

    def apply(
        self, data: Bytes, shape: Sequence[int], dtype: str, *, allow_non_finite: bool = False
    ) -> Bytes:
        """Applies the map to a stored tensor.

        Args:
            data: the tensor's bytes, row-major, little-endian, shape (nbytes,) of uint8.
            shape: its dimensions.
            dtype: its format's name in safetensors headers.
            allow_non_finite: let infinities and NaN pass; they move with their positions.

        Returns:
            The bytes of the moved tensor, same shape and format; `data` itself if nothing moves.

        Raises:
            InputError: a NaN or an infinity.
            PrecisionError: a power of two that would overflow or lose bits to a subnormal.
            UnsupportedError: a dtype this map cannot move.
        """
        check_format(self, dtype)
        form = FORMATS.get(dtype)
        if form is None:
            return data
        if self.is_identity:
            if not allow_non_finite:
                _check_finite(data.view(form.pattern), form)
            return data
        (rows, columns), (row_map, column_map) = _as_matrix(shape, self.axes)
        source = data.view(form.pattern).reshape(rows, columns)
        out = np.empty_like(source)
        if self.is_lossless:
            _move_bits(source, out, row_map, column_map, form, allow_non_finite)
        else:
            _move_rounding(source, out, row_map, column_map, form, allow_non_finite)
        return out.reshape(-1).view(np.uint8)


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
            _check_finite(data.view(form.pattern), form)
        moved = form.values(data).view(np.uint8)
        for change in self.maps:
            moved = change.apply(moved, shape, wide.name, allow_non_finite=allow_non_finite)
        return _cast(moved.view(np.float64), form, allow_non_finite).view(np.uint8)


def _cast(values: Float, form: Format, allow_non_finite: bool) -> Pattern:
    """Rounds float64 into a format.

    Raises:
        PrecisionError: a finite number that the format cannot hold.
    """
    with np.errstate(over="ignore"):
        out = values.astype(form.number).view(form.pattern)
    if not allow_non_finite and not _is_finite(out, form):
        raise PrecisionError(
            f"a weight of {np.abs(values).max():g} is out of {form.name}'s range after the "
            "lock. Use --set kind=lossless."
        )
    return out


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


def _move_bits(
    source: Pattern,
    out: Pattern,
    row_map: AxisMap | None,
    column_map: AxisMap | None,
    form: Format,
    allow_non_finite: bool,
) -> None:
    """Writes the lossless map of `source` into `out`, block by block."""
    row_flip, row_shift = _flip_and_shift(row_map, len(source))
    column_flip, column_shift = _flip_and_shift(column_map, source.shape[1])
    unit = form.pattern.type(1 << form.mantissa)
    sign = form.pattern.type(form.sign)
    step = max(1, BLOCK_BYTES // max(1, source.shape[1] * source.itemsize))
    for start in range(0, len(source), step):
        stop = min(start + step, len(source))
        block = out[start:stop]
        rows = source[row_map.source[start:stop]] if row_map else source[start:stop]
        if column_map:
            # mode="clip" lets numpy write straight into `out`; the indices are a permutation.
            np.take(rows, column_map.source, axis=1, out=block, mode="clip")
        else:
            block[:] = rows
        shifts = _outer(row_shift, column_shift, start, stop)
        if not allow_non_finite or shifts is not None:
            magnitude = block & ~sign
            if not allow_non_finite:
                _check_finite(magnitude, form)
            if shifts is not None:
                block += _exponents(magnitude, shifts, form, allow_non_finite) * unit
        for flip in (row_flip[start:stop, None] if row_flip is not None else None, column_flip):
            if flip is not None:
                block ^= flip.astype(form.pattern) * sign


def _flip_and_shift(
    change: AxisMap | None, size: int
) -> tuple[npt.NDArray[np.bool_] | None, npt.NDArray[np.int8] | None]:
    """Splits an axis's scales into signs and exponents; None for what is absent."""
    scale = change.scale if change else None
    if scale is None:
        return None, None
    flip, shift = scale < 0, (np.frexp(scale)[1] - 1).astype(np.int8)
    return (flip if flip.any() else None), (shift if shift.any() else None)


def _outer(
    row: npt.NDArray[np.int8] | None, column: npt.NDArray[np.int8] | None, start: int, stop: int
) -> npt.NDArray[np.int8] | None:
    """The sum of a row's and a column's exponent, broadcast over the block."""
    if row is None:
        return None if column is None else column[None, :]
    part = row[start:stop, None]
    return part if column is None else part + column[None, :]


def _exponents(
    magnitude: Pattern, shifts: npt.NDArray[np.int8], form: Format, allow_non_finite: bool
) -> Pattern:
    """What to add to each exponent field: the shift, or 0 for zeros (and non-finite values)."""
    wanted = shifts.astype(np.int64).astype(form.pattern)  # two's complement: the sum wraps
    largest = int(np.abs(shifts).max())
    field = magnitude >> form.pattern.type(form.mantissa)
    top = form.nonfinite >> form.mantissa
    if int(field.min()) > largest and int(field.max()) < top - largest:
        return wanted
    moved = (magnitude != 0) & (shifts != 0)
    if allow_non_finite:
        moved &= magnitude < form.pattern.type(form.nonfinite)
    target = field.astype(np.int64) + shifts
    lost = moved & ((field == 0) | (target < 1) | (target >= top))
    if lost.any():
        place = tuple(int(i) for i in np.argwhere(lost)[0])
        value = magnitude[place].reshape(1).view(form.number).astype(np.float64)[0]
        power = int(np.broadcast_to(shifts, magnitude.shape)[place])
        raise PrecisionError(
            f"{form.name} cannot hold {value:g} times 2**{power} exactly. Lock with "
            "--set scales=false, which uses permutations and signs only."
        )
    return np.where(moved, wanted, form.pattern.type(0))


def _move_rounding(
    source: Pattern,
    out: Pattern,
    row_map: AxisMap | None,
    column_map: AxisMap | None,
    form: Format,
    allow_non_finite: bool,
) -> None:
    """Writes the map of `source` into `out`: blocks of rows in float64, each cast once."""
    for order, rows in _row_blocks(row_map, source.shape):
        stop = rows.start + len(order)
        block = source[order]
        if not allow_non_finite:
            _check_finite(block, form)
        if column_map:  # positions move as bits, which is quicker than as float64
            block = np.take(block, column_map.source, axis=1, mode="clip")
        values = block.view(form.number).astype(np.float64)
        if column_map:
            values = column_map.scaled(values)
        if rows.factor is not None:
            if rows.factor.ndim == 1:
                values *= rows.factor[:, None]
            else:
                width = rows.factor.shape[1]
                values = np.matmul(rows.factor, values.reshape(-1, width, values.shape[1]))
                values = values.reshape(len(order), -1)
        out[rows.start : stop] = _cast(values, form, allow_non_finite)


@dataclass(frozen=True, eq=False)
class _Rows:
    """A run of output rows and the part of the row map's F that makes them."""

    start: int
    factor: Float | None


def _row_blocks(row_map: AxisMap | None, shape: tuple[int, ...]) -> Iterator[tuple[Index, _Rows]]:
    """Yields (source rows, run) in output order, never cutting through a dense block."""
    per_block = max(1, BLOCK_BYTES // max(1, shape[1] * 8))
    if row_map is None:
        for start in range(0, shape[0], per_block):
            yield np.arange(start, min(start + per_block, shape[0])), _Rows(start, None)
        return
    start = 0
    for factor in row_map.factors:
        width = 1 if factor.ndim == 1 else factor.shape[1]
        count = max(1, per_block // width)
        for first in range(0, len(factor), count):
            part = factor[first : first + count]
            rows = len(part) * width
            yield row_map.source[start : start + rows], _Rows(start, part)
            start += rows


def _is_finite(patterns: Pattern, form: Format) -> bool:
    magnitude = patterns & form.pattern.type(form.sign - 1)
    return not magnitude.size or int(magnitude.max()) < form.nonfinite


def _check_finite(patterns: Pattern, form: Format) -> None:
    """Refuses NaN and infinity."""
    for start in range(0, patterns.size, BLOCK_BYTES):
        if not _is_finite(patterns.reshape(-1)[start : start + BLOCK_BYTES], form):
            raise InputError(
                "a weight is NaN or infinite. Repair the model, or pass --allow-non-finite to "
                "carry such values along."
            )
