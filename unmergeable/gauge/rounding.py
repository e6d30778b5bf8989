"""Real scales and dense blocks on a matrix: computed in float64, rounded once.

Where nothing but scales is at work the compiled kernel does all of it; where blocks mix positions
it reads and writes, and BLAS multiplies, a block of output rows at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from unmergeable.gauge import kernel
from unmergeable.gauge.axis_map import AxisMap, Float, Index
from unmergeable.gauge.dense_runs import dense_runs
from unmergeable.gauge.floats import Bytes, Format, Pattern, cast, check_finite
from unmergeable.gauge.memory import empty

# Of float64. Few enough rows for the kernels that BLAS has for small matrices (for OpenBLAS, rows
# times the square of a dense block's width up to a million), and enough for these to be quick.
BLOCK_BYTES = 1 << 20
FLOAT = np.dtype(np.float64)


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
        self._runs = dense_runs(row_map) if row_map else None
        # The same memory for every block: fresh pages cost more than what is worked out in them.
        self._work: dict[str, Bytes] = {}

    @np.errstate(over="ignore", invalid="ignore")  # `cast` looks at what comes out
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
        for places, order, factor in self._row_blocks(source.shape, start, len(out)):
            values = self._columns_of(source, order)
            if factor is not None and factor.ndim == 1:
                values *= factor[:, None]
            elif factor is not None:
                blocks = -1, factor.shape[1], values.shape[1]
                mixed = self._block("rows", values.shape)
                np.matmul(factor, values.reshape(blocks), out=mixed.reshape(blocks))
                values = mixed
            made = self._block("made", values.shape, source.dtype)
            if not kernel.narrow(values, made, self._form):
                made = cast(values, self._form, self._lenient)
            out[places - start] = made

    def _columns_of(self, source: Pattern, order: Index) -> Float:
        """Rows of the source in float64, their columns moved and mixed."""
        shape = len(order), source.shape[1]
        values = self._widen(source, order, self._block("numbers", shape))
        if values is None:
            values = _widened(source[order], self._column_map, self._form, self._lenient)
        if self._column_map and self._column_map.scale is None:
            values = self._column_map.scaled(values, out=self._block("columns", shape))
        return values

    def _row_blocks(
        self, shape: tuple[int, ...], start: int, count: int
    ) -> Iterator[tuple[Index, Index, Float | None]]:
        """Yields (output rows, source rows, the part of the row map's F that makes them)."""
        per_block = max(1, BLOCK_BYTES // max(1, shape[1] * 8))
        stop = start + count
        if self._row_map is None or self._runs is None:
            for first in range(start, stop, per_block):
                places = np.arange(first, min(first + per_block, stop))
                yield places, places, None
            return
        for run in self._runs:
            for places, factor in run.blocks(start, stop, per_block):
                yield places, self._row_map.source[places], factor

    def _block(
        self, use: str, shape: tuple[int, ...], dtype: np.dtype[Any] = FLOAT
    ) -> npt.NDArray[Any]:
        """Memory for a block, the same for all blocks of one use."""
        size = math.prod(shape) * dtype.itemsize
        if len(self._work.get(use, ())) < size:
            self._work[use] = empty(size)
        return self._work[use][:size].view(dtype).reshape(shape)


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
