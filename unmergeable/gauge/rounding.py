"""Real scales and dense blocks on a matrix: computed in float64, rounded once.

Where nothing but scales is at work the compiled kernel does all of it; where blocks mix positions
it reads and writes, and BLAS multiplies, a block of output rows at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from unmergeable.gauge import kernel
from unmergeable.gauge.axis_map import AxisMap, Float, Index
from unmergeable.gauge.floats import Format, Pattern, cast, check_finite
from unmergeable.memory import empty

# Of float64. Blocks that fit the first cache would leave BLAS too few rows at a time.
BLOCK_BYTES = 1 << 21


def move_values(
    source: Pattern,
    out: Pattern,
    row_map: AxisMap | None,
    column_map: AxisMap | None,
    form: Format,
    allow_non_finite: bool,
) -> None:
    """Writes the map of a matrix: blocks of rows in float64, each cast once.

    Args:
        source: the matrix, shape (rows, columns), as patterns.
        out: where to; of the same shape, and not the same memory.
        row_map: what its rows undergo, None if they stay.
        column_map: what its columns undergo.
        form: of its numbers.
        allow_non_finite: let infinities and NaN pass.

    Raises:
        InputError: a NaN or an infinity.
        PrecisionError: a result that the format cannot hold.
    """
    if kernel.scale(source, out, row_map, column_map, form):
        return
    widen = kernel.Widener(column_map, form)
    # The same memory for every block, as fresh pages cost more than what is worked out in them.
    work = [np.empty((0, 0))] * 3
    for order, rows in _row_blocks(row_map, source.shape):
        shape = len(order), source.shape[1]
        if len(work[0]) < len(order):
            work = [empty(8 * math.prod(shape)).view(np.float64).reshape(shape) for _ in work]
        first, second, third = (block[: len(order)] for block in work)
        values = widen(source, order, first)
        if values is None:
            values = _widened(source[order], column_map, form, allow_non_finite)
        if column_map and column_map.scale is None:
            values = column_map.scaled(values, out=second)
        if rows.factor is not None:
            if rows.factor.ndim == 1:
                values *= rows.factor[:, None]
            else:
                blocks = -1, rows.factor.shape[1], shape[1]
                np.matmul(rows.factor, values.reshape(blocks), out=third.reshape(blocks))
                values = third
        made = out[rows.start : rows.start + len(order)]
        if not kernel.narrow(values, made, form):
            made[:] = cast(values, form, allow_non_finite)


def _widened(
    block: Pattern, column_map: AxisMap | None, form: Format, allow_non_finite: bool
) -> Float:
    """Rows as float64, with their columns moved, and scaled if that is all they undergo."""
    if not allow_non_finite:
        check_finite(block, form)
    if column_map:  # positions move as bits, which is quicker than as float64
        block = np.take(block, column_map.source, axis=1, mode="clip")
    values = block.view(form.number).astype(np.float64)
    scale = column_map.scale if column_map else None
    return values if scale is None else values * scale


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
