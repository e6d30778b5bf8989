"""Takes a stored tensor apart into some rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from unmergeable.checkpoint.header import TensorEntry
from unmergeable.checkpoint.source import PIECE

# Bytes of rows that are read at once where they can be changed apart: few enough to stay in cache.
PART = 8 << 20


def row_parts(entry: TensorEntry, apart: bool) -> Iterator[TensorEntry]:
    """What is read at once: some rows where they can be changed apart, else all of them.

    Args:
        entry: the tensor.
        apart: whether they can, along its first axis.

    Yields:
        Consecutive rows as tensors of their own, of about `PART` bytes.
    """
    rows = entry.shape[0] if entry.shape else 1
    if not apart or entry.size <= PART or entry.size % rows:
        yield entry
        return
    width = entry.size // rows
    step = max(1, PIECE // width) * (PART // PIECE)
    for first in range(0, rows, step):
        count = min(step, rows - first)
        shape = (count, *entry.shape[1:])
        yield replace(entry, start=entry.start + first * width, size=count * width, shape=shape)
