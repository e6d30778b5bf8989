"""Norms that queries and keys pass through before they meet: what moves between the two.

A score is a sum over the positions of a head, of a query's gain times a key's gain times what the
norms make. So the query's gain times c and the key's gain over c compute the same. Where rotary
positions turn a plane behind the norms, c is one for both of its positions.

A norm takes the length off its input, up to its epsilon, so that the rows that make it may be of
any length. Signs pass it: those of rows and of gains count together, position by position, or all
at once where the norm subtracts a mean. The same holds of rows in front of any norm: see `normed`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from unmergeable.architectures.normed import Places, Rows, rows_behind
from unmergeable.gauge.axis_blocks import strands
from unmergeable.gauge.axis_map import Index
from unmergeable.gauge.groups import Rotary
from unmergeable.gauge.notation import Atom

if TYPE_CHECKING:
    from unmergeable.architectures.layout import Layout
    from unmergeable.architectures.rules import ScoreNormRule

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Balance:
    """Tensors that may be multiplied by scales where others are divided by them.

    Attributes:
        size: how many scales there are.
        times: what is multiplied.
        over: what is divided.
    """

    size: int
    times: tuple[Places, ...]
    over: tuple[Places, ...]

    @property
    def names(self) -> list[str]:
        """All of its tensors."""
        return [places.name for places in (*self.times, *self.over)]


@dataclass(frozen=True, eq=False)
class _Side:
    """Queries or keys of one layer.

    Attributes:
        names: of gains and biases.
        matrix: whose rows they are, of each head first those that a norm reads.
        others: its bias.
        heads: how many there are.
        parts: how many rows of each head positions turn, and how many more norms read.
        width: rows of each head, those that no norm reads included.
        meets: the layer of the keys.
    """

    names: list[str]
    matrix: str
    others: tuple[str, ...]
    heads: int
    parts: tuple[int, int]
    width: int
    meets: int


def balances_of(layout: Layout, shapes: Shapes) -> list[Balance]:
    """The scales between the gains of queries and of keys, layer by layer.

    Args:
        layout: of the model.
        shapes: its tensors' dimensions, by name.
    """
    found = []
    for rule, queries, key in _layers(layout, shapes):
        if not rule.clipped:
            ties = _ties(rule, key, turned=not rule.behind)
            times = tuple(
                places
                for query in queries
                for places in _places(query, rule.offset, shapes, ties, query.heads // key.heads)
            )
            over = tuple(_places(key, rule.offset, shapes, ties, 1))
            size = 1 + max(int(part.scales.max()) for part in (*times, *over))
            found.append(Balance(size, times, over))
    return found


def rows_of(layout: Layout, shapes: Shapes) -> list[Rows]:
    """The rows in front of norms: of queries and of keys of each layer, and of whole blocks.

    Args:
        layout: of the model.
        shapes: its tensors' dimensions, by name.
    """
    found = []
    for rule, queries, key in _layers(layout, shapes):
        for side in () if rule.bounded else (*queries, key):
            ties = _ties(rule, side, turned=rule.behind)
            if rule.centred:
                ties = np.zeros_like(ties)
            gains = tuple(
                places
                for places in _places(side, rule.offset, shapes, ties, 1)
                if places.name.endswith("weight")
            )
            size = side.heads * len(ties)
            signs = np.add.outer(np.arange(side.heads) * (int(ties.max()) + 1), ties).reshape(-1)
            if len(gains) == 1 and len(gains[0].scales) == len(ties):
                signs = np.tile(ties, side.heads)
            whole = len(gains) == 1 and shapes[gains[0].name] == (size,)
            numbers = np.arange(size) // (size if whole else len(ties))
            norms, flips = 1 + int(numbers.max()), 1 + int(signs.max())
            if side is key and _are_values(layout, key, queries):
                signs, flips, gains = np.zeros_like(signs), 0, ()
            numbers, signs = (
                _with_rest(side, part, free) for part, free in ((numbers, norms), (signs, flips))
            )
            matrix, *others = (Places(name, 0.0, numbers) for name in (side.matrix, *side.others))
            found.append(Rows(matrix, tuple(others), norms, signs, flips, gains, rule.centred))
    return [*found, *rows_behind(layout, shapes)]


def _layers(layout: Layout, shapes: Shapes) -> Iterator[tuple[ScoreNormRule, list[_Side], _Side]]:
    """The norms of each layer: their rule, those of queries, those of keys.

    Layers whose queries meet the keys of another layer stand with it.
    """
    for rule in layout.score_norms:
        queries, keys = (
            _sides(layout, shapes, *names)
            for names in ((rule.query, rule.query_rows), (rule.key, rule.key_rows))
        )
        for layer in sorted(keys):
            key = keys[layer]
            meeting = [query for query in queries.values() if query.meets == layer]
            if key.meets == layer and meeting:
                yield rule, meeting, key


def _are_values(layout: Layout, key: _Side, queries: Sequence[_Side]) -> bool:
    """Whether what makes the keys makes the values, too: then nothing else moves its signs."""
    own = {name for side in (key, *queries) for name in (side.matrix, *side.others, *side.names)}
    names = _leaf(layout, key.matrix)
    index = layout.placements[key.matrix].index
    per = layout.spaces[names].per
    return any(
        name not in own
        and any(names in axis.names() for axis in placement.rule.axes)
        and all(placement.index.get(one) == index.get(one) for one in per)
        for name, placement in layout.placements.items()
    )


def _leaf(layout: Layout, matrix: str) -> str:
    """The space that a head's positions are in."""
    return list(layout.placements[matrix].rule.axes[0].names())[-1]


def _sides(
    layout: Layout, shapes: Shapes, norms: Sequence[str], rows: Sequence[str]
) -> dict[int, _Side]:
    """Queries or keys of each layer that has norms."""
    found, matrices = {}, _by_layer(layout, rows)
    for layer, names in _by_layer(layout, norms).items():
        matrix = next(name for name in matrices[layer] if len(shapes[name]) == 2)
        others = tuple(name for name in matrices[layer] if name != matrix)
        parts = _inside(layout, matrix, shapes)
        # A gate beside a query follows the order of what it is a gate of: no norm reads it.
        read = [places for atoms, places in parts if atoms[-1].side != "order"]
        turned, *rest = (places.shape[-1] for places in read)
        heads, width = math.prod(read[0].shape[:-1]), sum(p.shape[-1] for _, p in parts)
        placement = layout.placements[matrix]
        per = layout.spaces[_leaf(layout, matrix)].per[:1]
        meets = placement.index[per[0]] if per else layer
        found[layer] = _Side(names, matrix, others, heads, (turned, sum(rest)), width, meets)
    return found


def _by_layer(layout: Layout, beginnings: Sequence[str]) -> dict[int, list[str]]:
    """The tensors with these beginnings, by layer, in the order of what else numbers them."""
    found: dict[int, list[tuple[tuple[int, ...], str]]] = defaultdict(list)
    starts = tuple(f"{name}." for name in beginnings)
    for name, placement in layout.placements.items():
        if placement.rule.begins_with_any(starts):
            layer, *rest = placement.index.values()
            found[layer].append((tuple(rest), name))
    return {layer: [name for _, name in sorted(names)] for layer, names in found.items()}


def _inside(layout: Layout, matrix: str, shapes: Shapes) -> list[tuple[tuple[Atom, ...], Index]]:
    """The parts of a head that a matrix has rows for, the one that positions turn first."""
    axis = layout.placements[matrix].rule.axes[0]
    return strands(axis, layout.spaces, shapes[matrix][0])


def _ties(rule: ScoreNormRule, side: _Side, turned: bool) -> Index:
    """For each position of a head, which of its scales it has: one for a plane that is turned."""
    size, rest = side.parts
    if not turned or rule.planes == "none":
        return np.arange(size + rest)
    ties: Index = np.arange(size + rest, dtype=np.int64) - size // 2
    turning = Rotary("", interleaved=rule.planes == "interleaved", axial=rule.planes == "axial")
    for half in turning.planes(size):
        ties[half] = np.arange(size // 2)
    return ties


def _with_rest(side: _Side, numbers: Index, free: int) -> Index:
    """Numbers of rows that norms read, with those of a head's other rows between: any that is free.

    Args:
        side: queries or keys.
        numbers: of the rows that norms read, head by head.
        free: a number that stands for none.
    """
    every = np.full((side.heads, side.width), free)
    every[:, : sum(side.parts)] = numbers.reshape(side.heads, -1)
    return every.reshape(-1)


def _places(
    side: _Side, offset: float, shapes: Shapes, ties: Index, shared: int
) -> Iterator[Places]:
    """Which scale each gain and bias of one side has.

    Args:
        side: queries or keys.
        offset: what is added to gains.
        shapes: of tensors, by name.
        ties: for each position of a head, its scale.
        shared: how many heads have the same scales.
    """
    size = int(ties.max()) + 1
    grid = np.add.outer(np.arange(side.heads) // shared * size, ties)
    for kind, added in (("weight", offset), ("bias", 0.0)):
        chosen = [name for name in side.names if name.endswith(kind)]
        for number, name in enumerate(chosen):
            if len(chosen) > 1:  # each head has a norm of its own
                yield Places(name, added, grid[number])
            elif math.prod(shapes[name]) == len(ties):  # all heads have one gain
                yield Places(name, added, ties)
            else:
                yield Places(name, added, grid.reshape(-1))
