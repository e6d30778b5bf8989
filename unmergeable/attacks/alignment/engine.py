"""Walks through a model space by space and lets a method fit each one.

The order makes one fit possible after the other:

1. spaces of the whole model, the residual stream above all, from tensors whose other axes are fixed
   or fitted: embeddings, patch and position embeddings, heads (T5's order of attention heads too,
   which all layers share);
2. in each layer, heads (or key-value groups with their query heads);
3. the inner spaces of each matched head: queries and keys, values and outputs;
4. the FFN's neurons.

What to move is read from the architecture's declaration alone.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from unmergeable.architectures.layout import Layout
from unmergeable.checkpoint.reader import TensorReader
from unmergeable.checkpoint.rewrite import Progress
from unmergeable.gauge.axis_map import AxisMap
from unmergeable.gauge.fit import View
from unmergeable.gauge.notation import Axis, Concatenation, Product, Space
from unmergeable.gauge.parts import moved, parts, values
from unmergeable.gauge.strands import Block

if TYPE_CHECKING:
    from unmergeable.attacks.alignment.method import Method

BlockPair = tuple[Block, Block]  # a block of the protected tensor, and the anchor's


class Alignment:
    """A gauge that is fitted instead of drawn.

    Args:
        layout: of both models.
        protected: its tensors.
        anchor: the base's.
        names: the tensors that both have.
        method: what fits.
    """

    def __init__(
        self,
        layout: Layout,
        protected: TensorReader,
        anchor: TensorReader,
        names: Iterable[str],
        method: Method,
    ) -> None:
        self.layout, self._protected, self._anchor = layout, protected, anchor
        self._method = method
        self._fitted: dict[tuple[str, tuple[int, ...]], AxisMap] = {}
        self._movable = layout.movable()
        self._local = [space for space in self._movable.values() if space.per]
        self._inner = inner_spaces(layout)
        self._names = sorted(names)

    def __call__(self, space: Space, instance: tuple[int, ...]) -> AxisMap:
        """The fitted element; the identity for what is fixed or not fitted yet."""
        found = self._fitted.get((space.name, instance))
        return AxisMap.identity(space.size or 0) if found is None else found

    def fit_all(self, progress: Progress) -> None:
        """Fits every space of the model; layers side by side, as they do not depend on each other.

        Args:
            progress: called with the number of the protected model's bytes just fitted.
        """
        by_layer: dict[tuple[tuple[str, int], ...], list[str]] = defaultdict(list)
        for name in self._names:
            by_layer[tuple(sorted(self.layout.placements[name].index.items()))].append(name)
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            self._fit_whole()
            self._fit_pooling()
            layers = [(dict(index), names) for index, names in by_layer.items()]
            for done in pool.map(lambda layer: self._fit_layer(*layer), layers):
                progress(done)

    def _blocks(self, name: str) -> Iterator[BlockPair]:
        """A tensor's blocks in both models, the protected one's with all that is fitted so far."""
        rule, tensors = self.layout.placements[name].rule, []
        for reader in (self._protected, self._anchor):
            entry = reader.entry(name)
            tensors.append(values(reader.read(name), entry.shape, entry.dtype))
        tensors[0] = moved(self.layout.tensor_map(name, self), tensors[0])
        one, two = (parts(rule.axes, self.layout.spaces, tensor) for tensor in tensors)
        return zip(one, two, strict=True)

    def _fit_whole(self) -> None:
        """Fits the spaces that the whole model shares."""
        for name, space in self._movable.items():
            if space.per or not space.group or self._inside(space, ()):
                continue
            shown = []
            for tensor in self._names:
                axes = self.layout.placements[tensor].rule.axes
                used = [atom for axis in axes for atom in axis.names()]
                others = [other for other in used if other != name]
                square = used.count(name) == len(used) > 1
                if name in used and not square and not any(map(self._is_open, others)):
                    shown += [view for pair in self._blocks(tensor) for view in views(pair, name)]
            if shown:
                self._fitted[name, ()] = self._method.whole(space.group, shown)

    def _inside(self, head: Space, at: tuple[str, ...]) -> list[Space]:
        """The spaces inside each position of a head's space, where that has these indices."""
        return [space for space in self._local if space.per == (*at, head.name)]

    def _fit_pooling(self) -> None:
        """Fits attention that stands in no layer, as where a model pools by it."""
        for space in self._movable.values():
            if inner := self._inside(space, ()):
                names = [n for n in self._names if not self.layout.placements[n].index]
                self._fit_heads((), space, inner, [p for n in names for p in self._blocks(n)])

    def _is_open(self, name: str) -> bool:
        """Whether a space could move and has not been fitted."""
        return name in self._movable and (name, ()) not in self._fitted

    def _fit_layer(self, index: Mapping[str, int], names: Sequence[str]) -> int:
        """Fits the spaces of one layer; returns the bytes of its tensors."""
        size = sum(self._protected.entry(name).size for name in names)
        if not index:
            return size
        (position,) = index.values()
        pairs = [pair for name in names for pair in self._blocks(name)]
        own = [s for s in self._local if len(s.per) == 1 and s.per[0] in index]
        for space in own:
            inner = [s for s in self._local if space.name in s.per]
            if inner:
                self._fit_heads((position,), space, inner, pairs)
                continue
            shown = [view for pair in pairs for view in views(pair, space.name)]
            if shown and space.group:
                self._fitted[space.name, (position,)] = self._method.neurons(space.group, shown)
        for leaf in self._local:
            head = self.layout.spaces[leaf.per[-1]]
            if leaf.per[0] in index and head.group and not head.per:
                self._fit_inside(position, head, leaf, pairs)
        self._method.layer(self.layout, position, pairs)
        return size

    def _fit_heads(
        self,
        outer: tuple[int, ...],
        head: Space,
        inner: Sequence[Space],
        pairs: Sequence[BlockPair],
    ) -> None:
        """Matches heads, or key-value groups with their query heads, then fits inside each."""
        leaves = [space for space in inner if space.name in self._inner]
        query = next((space for space in inner if space not in leaves), None)
        match = self._method.heads(head, query, leaves, pairs)
        self._fitted[head.name, outer] = AxisMap.monomial(match.heads)
        for anchor, source in enumerate(match.heads):
            at = (*outer, int(source))
            if query is not None:
                self._fitted[query.name, at] = AxisMap.monomial(match.queries[anchor])
            for leaf in leaves:
                shown = []
                for one, two in pairs:
                    if leaf.name in one.names():
                        p, q = one.at(head.name, int(source)), two.at(head.name, anchor)
                        if query is not None and query.name in p.names():
                            axis = p.names().index(query.name)
                            p = Block(p.atoms, p.values.take(match.queries[anchor], axis))
                        shown += views((p, q), leaf.name)
                if shown and leaf.group:
                    self._fitted[leaf.name, at] = self._method.inside(leaf.group, shown)

    def _fit_inside(self, layer: int, head: Space, leaf: Space, pairs: Sequence[BlockPair]) -> None:
        """Fits inside heads whose order was fitted before, once for all layers."""
        for anchor, source in enumerate(self(head, ()).source):
            shown = []
            for pair in pairs:
                if leaf.name in pair[0].names():  # its heads stand in the anchor's order by now
                    one, two = (block.at(head.name, anchor) for block in pair)
                    shown += views((one, two), leaf.name)
            if shown and leaf.group:
                at = (layer, int(source))
                self._fitted[leaf.name, at] = self._method.inside(leaf.group, shown)


def inner_spaces(layout: Layout) -> set[str]:
    """The spaces inside heads, such as queries and keys, or values and outputs.

    They are one per head, which has no fixed place as a layer has, and do not number copies of
    another space themselves, as the query heads of a key-value group do.
    """
    spaces = layout.movable()
    local = {name for name, space in spaces.items() if space.per and space.per[-1] in spaces}
    axes = [axis for placement in layout.placements.values() for axis in placement.rule.axes]
    return local - {name for axis in axes for name in _outer(axis)}


def _outer(axis: Axis) -> Iterator[str]:
    """The spaces that number copies of others on an axis."""
    if isinstance(axis, Product):
        yield axis.outer.name
        yield from _outer(axis.inner)
    elif isinstance(axis, Concatenation):
        for part in axis.parts:
            yield from _outer(part)


def views(pair: BlockPair, name: str) -> list[View]:
    """What a pair of blocks shows of a space: nothing, or one view."""
    one, two = pair
    if one.names().count(name) != 1:
        return []
    side = one.atoms[one.names().index(name)].side
    return [View(side, one.rows(name), two.rows(name))]
