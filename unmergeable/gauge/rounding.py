"""Real scales and dense blocks on a matrix: computed in float64, rounded once.

Where nothing but scales is at work the compiled kernel does all of it; where blocks mix positions
it reads and writes, and BLAS multiplies, a block of output rows at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from unmergeable.gauge import kernel
from unmergeable.gauge.axis_map import AxisMap, Float, Index
from unmergeable.gauge.floats import Format, Pattern, cast, check_finite
from unmergeable.memory import empty

# Of float64. Blocks that fit the first cache would leave BLAS too few rows at a time.
BLOCK_BYTES = 1 << 21


class Values:
    """A map of a matrix that rounds: blocks of rows in float64, each cast once.

    Args:
        row_map: what its rows undergo, None if they stay.
        column_map: what its columns undergo.
        form: of its numbers.
        allow_non_finite: let infinities and NaN pass.
    """

    def __init__(
        self,
        row_map: AxisMap | None,
        column_map: AxisMap | None,
        form: Format,
        allow_non_finite: bool,
    ) -> None:
        self._row_map, self._column_map = row_map, column_map
        self._form, self._lenient = form, allow_non_finite
        self._scale = kernel.Scale(row_map, column_map, form)
        self._widen = kernel.Widener(column_map, form)
        # The same memory for every block: fresh pages cost more than what is worked out in them.
        self._work: dict[str, Float] = {}

    def __call__(self, source: Pattern, out: Pattern, start: int = 0) -> None:
        """Writes rows of the moved matrix.

        Args:
            source: the whole matrix, shape (rows, columns), as patterns.
            out: where to: the new rows from `start` on, which cut through no dense block; not the
                same memory.
            start: see `out`.

        Raises:
            InputError: a NaN or an infinity.
            PrecisionError: a result that the format cannot hold.
        """
        if self._scale(source, out, start):
            return
        form = self._form
        for first, order, factor in _row_blocks(self._row_map, source.shape, start, len(out)):
            values = self._columns_of(source, order)
            if factor is not None and factor.ndim == 1:
                values *= factor[:, None]
            elif factor is not None:
                blocks = -1, factor.shape[1], values.shape[1]
                mixed = self._block("rows", values.shape)
                np.matmul(factor, values.reshape(blocks), out=mixed.reshape(blocks))
                values = mixed
            made = out[first - start : first - start + len(order)]
            if not kernel.narrow(values, made, form):
                made[:] = cast(values, form, self._lenient)

    def _columns_of(self, source: Pattern, order: Index) -> Float:
        """Rows of the source in float64, their columns moved and mixed."""
        shape = len(order), source.shape[1]
        values = self._widen(source, order, self._block("numbers", shape))
        if values is None:
            values = _widened(source[order], self._column_map, self._form, self._lenient)
        if self._column_map and self._column_map.scale is None:
            values = self._column_map.scaled(values, out=self._block("columns", shape))
        return values

    def _block(self, use: str, shape: tuple[int, ...]) -> Float:
        """Memory for a block, the same for all blocks of one use."""
        if len(self._work.get(use, ())) < shape[0]:
            self._work[use] = empty(8 * math.prod(shape)).view(np.float64).reshape(shape)
        return self._work[use][: shape[0]]


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


def _row_blocks(
    row_map: AxisMap | None, shape: tuple[int, ...], start: int, count: int
) -> Iterator[tuple[int, Index, Float | None]]:
    """Yields (first output row, source rows, the part of the row map's F that makes them)."""
    per_block = max(1, BLOCK_BYTES // max(1, shape[1] * 8))
    stop = start + count
    if row_map is None:
        for first in range(start, stop, per_block):
            yield first, np.arange(first, min(first + per_block, stop)), None
        return
    begin = 0
    for factor in row_map.factors:
        width = 1 if factor.ndim == 1 else factor.shape[1]
        end = begin + len(factor) * width
        step = max(1, per_block // width) * width
        for first in range(max(begin, start), min(end, stop), step):
            last = min(first + step, end, stop)
            part = factor[(first - begin) // width : (last - begin) // width]
            yield first, row_map.source[first:last], part
        begin = end
