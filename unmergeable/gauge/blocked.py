"""What is left of a group where runs of an axis share one scale, as in block-quantised weights.

A matrix in float8 has a scale for each block of 128 by 128 weights, say. A change of coordinates
is exact there if every block's weights stay together: then the scales change places as the blocks
do, and no weight is quantised again. So positions may change places inside a block, and blocks as
wholes. The same holds for what is quantised at run time, block by block: a block's largest
magnitude sees neither orders nor signs.

A space meets blocks on the axes of many tensors, inside products whose other spaces move as well.
What it may undergo then are the elements under which every block of every axis stays together:
the intersection, found from the positions alone.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from unmergeable.errors import UnsupportedError
from unmergeable.gauge.axis_blocks import strands
from unmergeable.gauge.axis_map import AxisMap, Index
from unmergeable.gauge.groups import (
    Group,
    Kind,
    Permutation,
    Rotary,
    RotaryTurns,
    SignedPermutation,
)
from unmergeable.gauge.notation import Axis, Space, Spaces
from unmergeable.gauge.randomness import Randomness


@dataclass(frozen=True)
class Run:
    """An axis of some tensor whose positions share scales.

    Attributes:
        axis: as declared.
        size: its length.
        block: how many consecutive positions have one scale.
    """

    axis: Axis
    size: int
    block: int


@dataclass(frozen=True, eq=False)
class Cells:
    """How far the positions of a space may move.

    Attributes:
        alike: shape (n,), a number for each position; those with the same may change places freely.
        cell: shape (n,), a number for each position; those with the same move together if they move
            beyond their cell.
        kind: for each cell, a number; cells with the same may change places as wholes.
    """

    alike: Index
    cell: Index
    kind: Index

    @cached_property
    def members(self) -> list[Index]:
        """The positions of each cell, ascending."""
        order = np.argsort(self.cell, kind="stable")
        return np.split(order, np.flatnonzero(np.diff(self.cell[order])) + 1)

    @cached_property
    def crowds(self) -> list[Index]:
        """The positions that change places freely, crowds of one left out."""
        order = np.argsort(self.alike, kind="stable")
        found = np.split(order, np.flatnonzero(np.diff(self.alike[order])) + 1)
        return [crowd for crowd in found if len(crowd) > 1]

    @cached_property
    def exchanges(self) -> list[Index]:
        """The cells that change places as wholes, of each kind that has several."""
        kinds = [np.flatnonzero(self.kind == kind) for kind in np.unique(self.kind)]
        return [cells for cells in kinds if len(cells) > 1]


class Blocked(Group):
    """A group's lossless elements that keep blocks together, without powers of two.

    Args:
        group: what the space could undergo without blocks.
        cells: how far its positions may move.
    """

    def __init__(self, group: Group, cells: Cells) -> None:
        self.name = group.name
        moves = "any order, any signs" if isinstance(group, SignedPermutation) else "any order"
        if isinstance(group, Rotary):
            moves = "one quarter turn per rotary plane, or one sign"
        self.sentence = f"{moves}; blocks that share a scale stay together"
        self._group, self._cells = group, cells

    def draw(self, size: int, random: Randomness, kind: Kind) -> AxisMap:
        """Draws quarter turns or signs per rotary plane; else blocks' order, orders inside, signs.

        Raises:
            UnsupportedError: an element that rounds was asked for.
        """
        if kind.general:
            raise UnsupportedError(
                "weights in blocks that share a scale can be moved but not rotated. Use the "
                "lossless lock (--set kind=lossless), or dequantise the model first."
            )
        if isinstance(self._group, Rotary):
            # A sign is two of the four quarter turns; each plane draws from as many as it has.
            whole = self._turns(size) == 4
            turns = np.where(whole, random.below(4, size // 2), 2 * random.below(2, size // 2))
            return self._group.element(size, np.array([1, 1j, -1, -1j])[turns])
        source = self._order(size, random)
        signed = isinstance(self._group, SignedPermutation)
        return AxisMap.monomial(source, random.signs(size) if signed else None)

    def bits(self, size: int, kind: Kind) -> float:
        """log2 of how many elements there are."""
        if isinstance(self._group, Rotary):
            return float(np.log2(self._turns(size)).sum())
        counts = [len(crowd) for crowd in self._cells.crowds]
        counts += [len(cells) for cells in self._cells.exchanges]
        orders = sum(math.lgamma(count + 1) for count in counts) / math.log(2)
        return orders + (size if isinstance(self._group, SignedPermutation) else 0)

    def _order(self, size: int, random: Randomness) -> Index:
        inside, source = np.arange(size), np.empty(size, np.int64)
        for crowd in self._cells.crowds:
            inside[crowd] = crowd[random.permutation(len(crowd))]
        comes_from = np.arange(len(self._cells.members))
        for cells in self._cells.exchanges:
            comes_from[cells] = cells[random.permutation(len(cells))]
        for here, there in zip(self._cells.members, comes_from, strict=True):
            source[here] = inside[self._cells.members[there]]
        return source

    def _turns(self, size: int) -> Index:
        """How many turns each plane has: 4, or 2 where its two parts may not change places."""
        assert isinstance(self._group, Rotary)
        real, imaginary = self._group.planes(size)
        alike = self._cells.alike[real] == self._cells.alike[imaginary]
        signs = isinstance(self._group, RotaryTurns) and self._group.parts == 2
        return np.where(alike & (not signs), 4, 2)


def blocked(space: Space, spaces: Spaces, runs: Iterable[Run]) -> Group | None:
    """What a space may undergo where axes that it lives on have blocks.

    Args:
        space: which; it has a group.
        spaces: all of them, with sizes.
        runs: the axes that have blocks.

    Returns:
        None if none of these axes constrains it.
    """
    if space.group is None or not isinstance(space.group, Permutation | Rotary):
        return None
    views = [view for run in runs for view in _views(space, spaces, run)]
    return Blocked(space.group, _cells(space.size or 0, views)) if views else None


@dataclass(frozen=True, eq=False)
class _View:
    """The blocks that each position of one instance of a space touches, on one axis.

    Attributes:
        blocks: shape (n, m), for each position the block of each of its copies.
        foreign: the blocks that other positions of the axis touch too.
    """

    blocks: Index
    foreign: Index


def _views(space: Space, spaces: Spaces, run: Run) -> list[_View]:
    if run.block == 1:
        return []
    found = []
    parts = strands(run.axis, spaces, run.size)
    mine: dict[tuple[int, ...], list[Index]] = defaultdict(list)
    for atoms, places in parts:
        names = [atom.name for atom in atoms]
        if space.name not in names:
            continue
        blocks = np.moveaxis(places // run.block, names.index(space.name), -1)
        names.remove(space.name)
        for at in np.ndindex(*(spaces[n].size or 1 for n in names if n in space.per)):
            chosen = iter(at)
            index = tuple(next(chosen) if name in space.per else slice(None) for name in names)
            mine[at].append(blocks[index].reshape(-1, space.size or 0).T)
    every = np.arange(run.size) // run.block
    for pieces in mine.values():
        blocks = np.concatenate(pieces, axis=1)
        own = np.bincount(blocks.reshape(-1), minlength=int(every[-1]) + 1)
        found.append(_View(blocks, np.flatnonzero(own < np.bincount(every))))
    return found


def _cells(size: int, views: Sequence[_View]) -> Cells:
    everything = np.concatenate([view.blocks for view in views], axis=1)
    alike = np.unique(everything, axis=0, return_inverse=True)[1].reshape(-1)
    cell = _together(size, views)
    kinds: dict[object, int] = {}
    kind = np.empty(int(cell.max()) + 1, np.int64)
    for number in range(len(kind)):
        members = np.flatnonzero(cell == number)
        pattern: object = number  # of its own: this cell stays
        if not any(np.isin(view.blocks[members], view.foreign).any() for view in views):
            pattern = tuple(_pattern(view.blocks[members]) for view in views)
        kind[number] = kinds.setdefault(pattern, len(kinds))
    return Cells(alike, cell, kind)


def _together(size: int, views: Sequence[_View]) -> Index:
    """Numbers the positions so that those which share a block, on some axis, have one number."""
    number = np.arange(size)
    while True:
        before = number
        for view in views:
            lowest = np.full(int(view.blocks.max()) + 1, size)
            np.minimum.at(lowest, view.blocks, number[:, None])
            number = lowest[view.blocks].min(axis=1)
        if (number == before).all():
            return np.unique(number, return_inverse=True)[1].reshape(-1)


def _pattern(blocks: Index) -> tuple[tuple[int, ...], bytes]:
    """The same for cells whose positions lie in their blocks in the same way."""
    flat = blocks.reshape(-1)
    values, first = np.unique(flat, return_index=True)
    rank = np.empty(len(values), np.int64)
    rank[np.argsort(first)] = np.arange(len(values))
    return blocks.shape, rank[np.searchsorted(values, flat)].tobytes()
