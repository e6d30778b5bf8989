"""Permutations, signs and powers of two on bit patterns: nothing is rounded.

Integer work only: gathers, XOR on the sign bit, addition on the exponent field. This is the
definition of what the compiled kernel does, and what runs where there is none. Output rows are made
in blocks that fit a core's cache.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

from unmergeable.errors import PrecisionError
from unmergeable.gauge import kernel
from unmergeable.gauge.axis_map import AxisMap
from unmergeable.gauge.floats import Format, Pattern, check_finite

BLOCK_BYTES = 1 << 18
_Changes = tuple[npt.NDArray[np.bool_] | None, npt.NDArray[np.int16] | None]


class Bits:
    """A lossless map of a matrix.

    Args:
        row_map: what its rows undergo, None if they stay.
        column_map: what its columns undergo.
        form: of its numbers.
        allow_non_finite: let infinities and NaN pass; they move with their positions.
    """

    def __init__(
        self,
        row_map: AxisMap | None,
        column_map: AxisMap | None,
        form: Format,
        allow_non_finite: bool,
    ) -> None:
        self._maps, self._form, self._lenient = (row_map, column_map), form, allow_non_finite
        self._compiled = kernel.Move(row_map, column_map, form)

    def __call__(self, source: Pattern, out: Pattern, start: int = 0) -> None:
        """Writes rows of the moved matrix.

        Args:
            source: the whole matrix, shape (rows, columns), as patterns.
            out: where to: the new rows from `start` on; not the same memory.
            start: see `out`.

        Raises:
            InputError: a NaN or an infinity.
            PrecisionError: a power of two that would overflow or lose bits to a subnormal.
        """
        if self._compiled(source, out, start):
            return
        step = max(1, BLOCK_BYTES // max(1, source.shape[1] * source.itemsize))
        for first in range(0, len(out), step):
            self._block(source, out[first : first + step], start + first)

    @cached_property
    def _changes(self) -> tuple[_Changes, _Changes]:
        """Signs and exponents of rows and of columns, worked out where the kernel is missing."""
        rows, columns = (_flip_and_shift(change) for change in self._maps)
        return rows, columns

    def _block(self, source: Pattern, block: Pattern, start: int) -> None:
        """The same by numpy, for rows that fit a core's cache."""
        (row_map, column_map), form, stop = self._maps, self._form, start + len(block)
        (row_flip, row_shift), (column_flip, column_shift) = self._changes
        unit = form.pattern.type(1 << form.mantissa)
        sign = form.pattern.type(form.sign)
        rows = source[row_map.source[start:stop]] if row_map else source[start:stop]
        if column_map:
            # mode="clip" lets numpy write straight into `out`; the indices are a permutation.
            np.take(rows, column_map.source, axis=1, out=block, mode="clip")
        else:
            block[:] = rows
        shifts = _outer(row_shift, column_shift, start, stop)
        if not self._lenient or shifts is not None:
            magnitude = block & ~sign
            if not self._lenient:
                check_finite(magnitude, form)
            if shifts is not None:
                block += _exponents(magnitude, shifts, form, self._lenient) * unit
        for flip in (row_flip[start:stop, None] if row_flip is not None else None, column_flip):
            if flip is not None:
                block ^= flip.astype(form.pattern) * sign


def _flip_and_shift(change: AxisMap | None) -> _Changes:
    """Splits an axis's scales into signs and exponents; None for what is absent."""
    scale = change.scale if change else None
    if scale is None:
        return None, None
    flip, shift = scale < 0, (np.frexp(scale)[1] - 1).astype(np.int16)
    return (flip if flip.any() else None), (shift if shift.any() else None)


def _outer(
    row: npt.NDArray[np.int16] | None, column: npt.NDArray[np.int16] | None, start: int, stop: int
) -> npt.NDArray[np.int16] | None:
    """The sum of a row's and a column's exponent, broadcast over the block."""
    if row is None:
        return None if column is None else column[None, :]
    part = row[start:stop, None]
    return part if column is None else part + column[None, :]


def _exponents(
    magnitude: Pattern, shifts: npt.NDArray[np.int16], form: Format, allow_non_finite: bool
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
