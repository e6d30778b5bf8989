"""The compiled twin of `lossless` and `rounding`: one pass over memory, several times as fast.

It is built where the package is installed and a C compiler is at hand; without one everything works
as well, more slowly. Each function says whether it did the work. It has not if there is no kernel,
if the format is none of its own, or if some number cannot be moved: numpy's code then does it, or
finds that number and names it.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from unmergeable.gauge.axis_map import AxisMap, Index
from unmergeable.gauge.floats import Float, Format, Pattern

compiled: ModuleType | None
try:
    from unmergeable.gauge import _kernel as compiled
except ImportError:
    compiled = None
if sys.byteorder != "little":
    compiled = None

# The formats whose arithmetic it knows; patterns it can move whatever they mean.
NUMBERS = ("BF16", "F32")


class Move:
    """Permutations, signs and powers of two; see `lossless.Bits`.

    Args:
        row_map: what the rows undergo, None if they stay.
        column_map: what the columns undergo.
        form: the format of the matrix.
    """

    def __init__(self, row_map: AxisMap | None, column_map: AxisMap | None, form: Format) -> None:
        self._form = form
        row_flips, row_shifts, row_reach = _signs_and_exponents(row_map, form)
        flips, shifts, reach = _signs_and_exponents(column_map, form)
        # Patterns that wrap around would look as if they were in range.
        self._wraps = row_reach + reach >= form.nonfinite >> form.mantissa
        self._rows = _sources(row_map, np.int64), row_flips, row_shifts
        self._columns = _sources(column_map, np.uint32)
        self._changes = _at_source(column_map, flips), _at_source(column_map, shifts)

    def __call__(self, source: Pattern, out: Pattern, start: int) -> bool:
        """Writes the new rows from `start` on."""
        if compiled is None or self._wraps or not _is_plain(source, out):
            return False
        stop = start + len(out)
        rows, flips, shifts = (None if x is None else x[start:stop] for x in self._rows)
        done: bool = compiled.move(
            source if rows is not None else source[start:stop],
            out,
            source.itemsize,
            *out.shape,
            rows,
            self._columns,
            flips,
            shifts,
            *self._changes,
            1 << self._form.mantissa,
            self._form.nonfinite,
        )
        return done


class Scale:
    """Permutations and real scales, rounded once; see `rounding.Values`.

    Args:
        row_map: what the rows undergo, None if they stay.
        column_map: what the columns undergo.
        form: the format of the matrix.
    """

    def __init__(self, row_map: AxisMap | None, column_map: AxisMap | None, form: Format) -> None:
        self._form = form
        row_scales = row_map.scale if row_map else None
        scales = column_map.scale if column_map else None
        self._mixes = (row_map and row_scales is None) or (column_map and scales is None)
        self._rows = _sources(row_map, np.int64), _array(row_scales, np.float64)
        self._columns = _sources(column_map, np.uint32), _at_source(column_map, scales)

    def __call__(self, source: Pattern, out: Pattern, start: int) -> bool:
        """Writes the new rows from `start` on."""
        if compiled is None or self._form.name not in NUMBERS or self._mixes:
            return False
        if not _is_plain(source, out):
            return False
        stop = start + len(out)
        rows, row_scales = (None if x is None else x[start:stop] for x in self._rows)
        columns, scales = self._columns
        done: bool = compiled.scale(
            source if rows is not None else source[start:stop],
            out,
            source.itemsize,
            *out.shape,
            rows,
            columns,
            row_scales,
            scales,
            self._form.nonfinite,
        )
        return done


class Widener:
    """Rows of a matrix as float64, with its columns moved as far as they are only scaled.

    Args:
        column_map: what the columns undergo.
        form: the format of the matrix.
    """

    def __init__(self, column_map: AxisMap | None, form: Format) -> None:
        self._form = form
        self._columns = _sources(column_map, np.uint32)
        self._scales = _at_source(column_map, column_map.scale if column_map else None)

    def __call__(self, source: Pattern, order: Index, out: Float) -> Float | None:
        """The rows of `source` in that order, written to `out`; None if numpy must make them."""
        if compiled is None or self._form.name not in NUMBERS or not _is_plain(source):
            return None
        where = self._columns, self._scales, self._form.nonfinite
        rows = _array(order, np.int64)
        done = compiled.widen(source, out, source.itemsize, *out.shape, rows, *where)
        return out if done else None


def narrow(values: Float, out: Pattern, form: Format) -> bool:
    """Rounds float64 into a format; see `floats.cast`."""
    if compiled is None or form.name not in NUMBERS or not _is_plain(values, out):
        return False
    done: bool = compiled.narrow(values, out, out.itemsize, out.size, form.nonfinite)
    return done


def _is_plain(*arrays: npt.NDArray[Any]) -> bool:
    """Whether arrays are in one piece and start where their numbers may start."""
    return all(array.flags.c_contiguous and array.flags.aligned for array in arrays)


def _sources(change: AxisMap | None, dtype: type) -> npt.NDArray[Any] | None:
    """Where each position comes from."""
    return _array(change.source if change else None, dtype)


def _array(array: npt.NDArray[Any] | None, dtype: type) -> npt.NDArray[Any] | None:
    """An array in one piece, of the type that the kernel reads."""
    return None if array is None else np.ascontiguousarray(array, dtype)


def _signs_and_exponents(
    change: AxisMap | None, form: Format
) -> tuple[Pattern | None, Pattern | None, int]:
    """Sign patterns and exponent patterns of an axis, None if all zero; the largest exponent."""
    if change is None or change.scale is None:
        return None, None, 0
    flip, exponent = change.scale < 0, np.frexp(change.scale)[1].astype(np.int64) - 1
    flips = flip.astype(form.pattern) * form.pattern.type(form.sign) if flip.any() else None
    if not exponent.any():
        return flips, None, 0
    shifts = (exponent << form.mantissa).astype(form.pattern)  # two's complement: sums wrap
    return flips, shifts, int(np.abs(exponent).max())


def _at_source(change: AxisMap | None, array: npt.NDArray[Any] | None) -> npt.NDArray[Any] | None:
    """What belongs to each new position, at its old one: the kernel changes before it gathers."""
    if change is None or array is None:
        return None
    out = np.empty_like(array)
    out[change.source] = array
    return out
