"""Which rows of a tensor several maps in a row can move without the others.

A permutation of heads and a dense block inside each, say, mix the rows of one head and no others.
So a chain of maps falls into pieces of rows that can be moved one after the other, in memory for
one of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from unmergeable.gauge.axis_map import AxisMap, Index


@dataclass(frozen=True, eq=False)
class RowPiece:
    """Rows that no other rows mix with.

    Attributes:
        old: their positions before all maps, ascending.
        new: their positions after all maps, ascending.
        maps: what they undergo, one after the other; None where they stay in their order.
    """

    old: Index
    new: Index
    maps: tuple[AxisMap | None, ...]


def row_pieces(maps: Sequence[AxisMap | None], size: int, wanted: int) -> Iterator[RowPiece]:
    """Cuts an axis into pieces that several maps of it leave apart.

    Args:
        maps: of the axis, the first one first; None for one that leaves it.
        size: its length.
        wanted: positions in a piece at most, if those that mix are not more.
    """
    labels = _labels(maps, size)
    names, counts = np.unique(labels[0], return_counts=True)
    piece_of_name, piece, held = np.empty(len(names), np.int64), 0, 0
    for place, count in enumerate(counts):
        if held and held + count > wanted:
            piece, held = piece + 1, 0
        piece_of_name[place], held = piece, held + count
    pieces = [piece_of_name[np.searchsorted(names, level)] for level in labels]
    rows = [_rows_of(level, piece + 1) for level in pieces]
    for number in range(piece + 1):
        levels = [level[number] for level in rows]
        moves = zip(maps, levels[:-1], levels[1:], strict=True)
        parts = tuple(change and _restricted(change, old, new) for change, old, new in moves)
        yield RowPiece(levels[0], levels[-1], parts)


def _rows_of(numbers: Index, count: int) -> list[Index]:
    """The positions of each number, ascending."""
    order = np.argsort(numbers, kind="stable")
    return np.split(order, np.searchsorted(numbers[order], np.arange(1, count)))


def _labels(maps: Sequence[AxisMap | None], size: int) -> list[Index]:
    """Before the first map and after each, a number for each position: the same where they mix."""
    labels = np.arange(size)
    while True:
        levels = [labels]
        for change in maps:
            levels.append(levels[-1] if change is None else _mixed(change, levels[-1]))
        before = levels[-1]
        for change in reversed(maps):
            if change is not None:
                there = np.empty_like(before)
                there[change.source] = _lowest(change, before)
                before = there
        if (before == labels).all():
            return levels
        labels = before


def _mixed(change: AxisMap, labels: Index) -> Index:
    return _lowest(change, labels[change.source])


def _lowest(change: AxisMap, labels: Index) -> Index:
    """For each new position the lowest label of those that its dense block makes."""
    found, start = labels.copy(), 0
    for factor in change.factors:
        stop = start + len(factor) * (factor.shape[1] if factor.ndim > 1 else 1)
        if factor.ndim > 1:
            blocks = found[start:stop].reshape(len(factor), -1)
            blocks[:] = blocks.min(axis=1, keepdims=True)
        start = stop
    return found


def _restricted(change: AxisMap, old: Index, new: Index) -> AxisMap:
    """A map on some positions, whole blocks of them: from these old ones to these new ones."""
    factors, start = [], 0
    for factor in change.factors:
        width = factor.shape[1] if factor.ndim > 1 else 1
        stop = start + len(factor) * width
        here = new[np.searchsorted(new, start) : np.searchsorted(new, stop) : width]
        if len(here):
            factors.append(factor[(here - start) // width])
        start = stop
    return AxisMap(np.searchsorted(old, change.source[new]), tuple(factors))
