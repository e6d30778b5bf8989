"""Walks through a model space by space and lets a method fit each one.

The order makes one fit possible after the other:

1. spaces of the whole model, the residual stream above all, from tensors whose other axes are fixed
   or fitted: embeddings, patch and position embeddings, heads (T5's order of attention heads too,
   which all layers share);
2. in each layer, what no head shares in: the FFN's neurons, latents of attention;
3. heads (or key-value groups with their query heads);
4. the inner spaces of each matched head, queries and keys, values and outputs, and those that all
   heads of a layer share;
5. experts, by the router's rows; then the neurons of each matched expert.

Whatever is fitted is read off blocks whose other dimensions are fixed or fitted already.

What to move is read from the architecture's declaration alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from unmergeable.architectures.layout import Layout
from unmergeable.architectures.norms import Norm
from unmergeable.attacks.alignment.directions import Directions
from unmergeable.attacks.alignment.gains import Gains
from unmergeable.attacks.alignment.pairing import Shape
from unmergeable.attacks.alignment.pairs import (
    BlockPair,
    Pairs,
    Part,
    is_numbered,
    rest_moved,
    views,
)
from unmergeable.attacks.alignment.rows import NormedRows
from unmergeable.attacks.alignment.shifts import Shifts
from unmergeable.attacks.alignment.spaces import beside, inner_spaces, names_on, shared_spaces
from unmergeable.attacks.alignment.streams import Streams, before_order
from unmergeable.checkpoint.header import TensorEntry
from unmergeable.checkpoint.in_order import in_order
from unmergeable.checkpoint.reader import TensorReader
from unmergeable.checkpoint.rewrite import Advance
from unmergeable.errors import InputError, UnsupportedError
from unmergeable.gauge.axis_blocks import Block
from unmergeable.gauge.axis_map import AxisMap, Index
from unmergeable.gauge.groups import (
    Group,
    Linear,
    PositiveScaledPermutation,
    Rotary,
    ScaledPermutation,
    SignedPermutation,
)
from unmergeable.gauge.memory import Arena, Bytes
from unmergeable.gauge.notation import Atom, Space
from unmergeable.gauge.parts import Real
from unmergeable.gauge.stack_map import StackMap
from unmergeable.gauge.tensor_map import TensorMap
from unmergeable.gauge.views import Turned, View, Wide
from unmergeable.machine import cores

if TYPE_CHECKING:
    from unmergeable.attacks.alignment.method import Method

Layer = tuple[tuple[str, int], ...]

# Experts of a layer that are looked at for the scales of the norm before them.
_EXPERTS = 4
# Columns of a view that tell the sign of a stream.
_COLUMNS = 128
# Bytes of numbers that all layers in work may hold together; one layer always may be in work.
BUDGET = 4 << 30


@contextmanager
def quiet() -> Iterator[None]:
    """Lets numbers overflow without a word: fits look at what came of it."""
    with np.errstate(all="ignore"):
        yield


class Alignment:
    """A gauge that is fitted instead of drawn.

    Args:
        layout: of both models.
        protected: its tensors.
        anchor: the base's.
        shapes: of the tensors that both have, what they have in common.
        method: what fits.

    Attributes:
        compares: whether the method compares the two; else nothing is known of norms and biases.
    """

    def __init__(
        self,
        layout: Layout,
        protected: TensorReader,
        anchor: TensorReader,
        shapes: Mapping[str, Shape],
        method: Method,
    ) -> None:
        self.layout, self.protected, self.anchor, self.shapes = layout, protected, anchor, shapes
        self._method, self.compares = method, method.compares
        self._fitted: dict[tuple[str, tuple[int, ...]], AxisMap] = {}
        self._movable = layout.movable()
        self._local = [space for space in self._movable.values() if space.per]
        self._inner, self._shared = inner_spaces(layout), shared_spaces(layout)
        self._names = sorted(shapes)
        self._whole_fitted = False
        self.streams = Streams(self)
        self.gains = Gains(self)
        self.shifts = Shifts(self, self.gains.norms)
        self.directions = Directions(self)
        self.rows = NormedRows(self)
        self._pairs = Pairs(self)

    def __call__(self, space: Space, instance: tuple[int, ...]) -> AxisMap:
        """The fitted element; the identity for what is fixed or not fitted yet."""
        found = self._fitted.get((space.name, instance))
        return AxisMap.identity(space.size or 0) if found is None else found

    def change(self, name: str) -> TensorMap | StackMap:
        """The map of a tensor of the protected model, as far as it is fitted."""
        change = self.gains.change(name, self.layout.tensor_map(name, self))
        return self.rows.change(name, self.streams.change(name, change))

    def moved(self, entry: TensorEntry, data: Bytes) -> Bytes:
        """The aligned bytes of a tensor of the protected model."""
        change = self.change(entry.name)
        scaled = partial(self.gains.moved, entry, data, change)
        sized = partial(self.streams.moved, entry, data, change, scaled)
        added = partial(self.directions.moved, entry, data, sized)
        return self.rows.moved(entry, data, partial(self.shifts.moved, entry, data, added))

    def settled(self, names: Iterable[str], index: Mapping[str, int]) -> bool:
        """Whether spaces, where they have these indices, move no more."""
        for name in names:
            space = self.layout.spaces[name]
            if name in self._movable and not (not space.per and self._whole_fitted):
                at = [index.get(one) for one in space.per]
                # Inside heads no index is known: those of a layer are fitted together.
                if None in at:
                    known = [place for one, place in list(self._fitted) if one == name]
                    if not any(_fits(place, at) for place in known):
                        return False
                elif (name, tuple(at)) not in self._fitted:
                    return False
        return True

    def fit_all(self, advance: Advance) -> None:
        """Fits every space of the model; layers side by side, as they do not depend on each other.

        Args:
            advance: called with the number of the protected model's bytes just fitted.
        """
        by_layer: dict[tuple[tuple[str, int], ...], list[str]] = defaultdict(list)
        for name in self._names:
            by_layer[self._layer_of(name)].append(name)
        arena = Arena(BUDGET)
        with arena.used(), quiet():
            # How large neurons are, the sizes of streams would hide.
            self._fit_whole({n for n, s in self._movable.items() if not s.per and _has_scales(s)})
            self.streams.settle(by_layer[()], self._pairs.sample)
            self._fit_whole(set())
            self._whole_fitted = True
            self._fit_pooling()
            for name in filter(self.rows.read_by, by_layer[()]):
                self.rows.look(name, *self._pairs.tensors(name))
            self._look_at(name for name in by_layer[()] if self.gains.read_by(name))
            self.gains.settle(self._norms_of(()))
        self._fit_all_layers(by_layer, arena, advance)
        shared = [norm for norm in self.gains.norms if len(self._readers_of(norm)) > 1]
        if self.gains.settle(shared):
            # Scales were guessed wrongly: what reads these norms is fitted once more.
            layers = {layer for norm in shared for layer in self._readers_of(norm) if layer}
            for layer in layers:
                self._forget(self._index(layer, by_layer[layer]))
            again = {one: by_layer[one] for one in sorted(layers)}
            self._fit_all_layers(again, arena, lambda _: None)
            self.gains.settle(shared)
        self.directions.settle()
        self.shifts.settle(arena, BUDGET)
        self.directions.settle_biases(self.shifts)
        self.rows.settle()

    def _fit_all_layers(
        self, by_layer: Mapping[Layer, list[str]], arena: Arena, advance: Advance
    ) -> None:
        """Fits layers, those that have heads of another layer after that one."""
        follow = {
            layer: names
            for layer, names in by_layer.items()
            if any(self._kept_elsewhere(dict(layer), name) for name in names[:1])
        }
        first = {layer: names for layer, names in by_layer.items() if layer not in follow}
        for part in (first, follow):
            self._fit_layers(part, arena, advance)

    def _kept_elsewhere(self, layer: Mapping[str, int], name: str) -> list[str]:
        """The index spaces in which the layer of a tensor has the position of another layer."""
        index = self.layout.placements[name].index
        own = self.layout.placements[name].named
        return [one for one, at in index.items() if one not in own and at not in layer.values()]

    def _index(self, layer: Layer, names: Sequence[str]) -> dict[str, int]:
        """The position of a layer in all index spaces of what it has spaces of its own of."""
        placement = self.layout.placements[names[0]]
        away = self._kept_elsewhere(dict(layer), names[0])
        more = {one: at for one, at in placement.index.items() if one not in placement.named}
        return dict(layer) | {one: at for one, at in more.items() if one not in away}

    def _fit_layers(
        self, by_layer: Mapping[Layer, list[str]], arena: Arena, advance: Advance
    ) -> None:
        """Fits layers side by side."""
        run = arena.used()(quiet()(self._fit_layer))
        jobs = (
            (self._pairs.need(names), partial(run, dict(index), names))
            for index, names in by_layer.items()
        )
        with (
            ThreadPoolExecutor(cores()) as pool,
            closing(in_order(pool, jobs, BUDGET)) as fitted,
        ):
            for done in fitted:
                advance(done)

    def _forget(self, layer: Mapping[str, int]) -> None:
        """Forgets what is fitted of one layer's spaces."""
        self.gains.forget(layer)
        for name, at in list(self._fitted):
            per = self.layout.spaces[name].per
            if per and layer.get(per[0]) == at[0]:
                del self._fitted[name, at]

    def _layer_of(self, name: str) -> Layer:
        """The indices of the layer that a tensor is in, none for what all layers share."""
        named = self.layout.placements[name].named
        outer = {space.per[0] for space in self._local}
        return tuple((one, named[one]) for one in sorted(outer & named.keys()))

    def _readers_of(self, norm: Norm) -> set[Layer]:
        """The layers of what reads a norm."""
        return {self._layer_of(touch.name) for touch in norm.readers}

    def _norms_of(self, layer: Layer) -> list[Norm]:
        """The norms that this layer alone reads."""
        return [norm for norm in self.gains.norms if self._readers_of(norm) == {layer}]

    def _look_at(self, names: Iterable[str]) -> None:
        """Lets the gains look at readers that stand in no layer."""
        for name in names:
            whole = self.directions.over_gains(name)
            both = self._pairs.sample(name, whole=whole)
            self.gains.look(name, slice(0, None), *self.directions.nearer(name, *both))

    def _fit_whole(self, later: Set[str]) -> None:
        """Fits the spaces that the whole model shares, those that matrices show first.

        Args:
            later: those that are left, with whatever they alone would show.
        """
        waiting = [
            space
            for space in self._movable.values()
            if self._is_open(space.name) and not space.per and not self._inside(space, ())
        ]
        while waiting:
            seen = ((space, *self._shown_of(space)) for space in waiting if space.name not in later)
            first = next((one for one in seen if _is_shown(*one[:2])), None)
            if first is None and later:
                return
            space, shown, more = first or (waiting[0], *self._shown_of(waiting[0]))
            if not first:  # what may have moved says something only where nothing else does
                shown = shown + more
            waiting.remove(space)
            if shown and space.group:
                self._check_dense(space, shown)
                turned = self._is_turned(space, shown)
                shown = list(map(Turned, shown)) if turned else shown
                found = self._method.whole(space.group, shown)
                sign = np.full(found.size, -1.0 if turned else 1.0)
                self._fitted[space.name, ()] = found.followed_by(sign)

    def _is_turned(self, space: Space, shown: Sequence[Wide]) -> bool:
        """Whether all positions of a stream have the other sign, which LayerNorms pass on."""
        if space.name not in self.layout.centred or not self.compares:
            return False
        alike = 0.0
        for wide in shown:
            if wide.side != "order" and wide.columns > 1:
                view = wide.part(slice(None, None, -(-wide.columns // _COLUMNS)))
                alike += before_order(view.moved, view.anchor, 0)[0]
        return alike < 0

    def _shown_of(self, space: Space) -> tuple[list[Wide], list[Wide]]:
        """What shows a space of the whole model by now; and what does, but may have moved."""
        shown: list[Wide] = []
        more: list[Wide] = []
        for tensor in self._names:
            axes = self.layout.placements[tensor].rule.axes
            used = [atom for axis in axes for atom in beside(axis, space.name)]
            others = [other for other in used if other != space.name]
            square = used.count(space.name) == len(used) > 1
            if space.name not in used or square or any(map(self._is_open, others)):
                continue
            moved = (self.gains.are_in, self.shifts.are_in, self.rows.hide)
            told = not any(are_in(tensor) for are_in in moved)
            if told and self.rows.read_by(tensor):
                axis = next(n for n, one in enumerate(axes) if space.name in one.names())
                if isinstance(space.group, Linear):
                    self._turn_behind(space, tensor, axis)
                else:
                    self.rows.turn(tensor, axis, *self._pairs.tensors(tensor))
            into = shown if told else more
            into += self._pairs.shown(tensor, space.name)
        return shown, more

    def _turn_behind(self, space: Space, reader: str, axis: int) -> None:
        """Guesses the sign and length of rows that read a dense space, by what it cannot change."""
        for writer in self._names:
            axes = self.layout.placements[writer].rule.axes
            if len(axes) > 1 and Atom(space.name) in axes:
                at = axes.index(Atom(space.name))
                products = [
                    np.moveaxis(read, axis, -1).reshape(-1, space.size or 1)
                    @ np.moveaxis(written, at, 0).reshape(space.size or 1, -1)
                    for read, written in zip(
                        self._pairs.tensors(reader), self._pairs.tensors(writer), strict=True
                    )
                ]
                self.rows.turn_to(reader, *products)
                return

    def _check_dense(self, space: Space, shown: Sequence[Wide]) -> None:
        """Refuses a dense space of which the models share one side alone, as outside layers.

        Raises:
            InputError: names a tensor that the anchor lacks.
        """
        if not isinstance(space.group, Linear) or _is_shown(space, shown):
            return
        placements, names = self.layout.placements, set(self._names)
        lacking = (
            name for name in placements if space.name in names_on(placements[name].rule.axes)
        )
        missing = sorted(set(lacking) - names)
        raise InputError(
            f"the space {space.name!r} cannot be aligned: it is fitted to what writes into it and "
            f"what reads from it, and the base lacks {', '.join(missing) or 'one of the two'}. "
            "Give a base that has both, or the model without this head."
        )

    def _inside(self, head: Space, at: tuple[str, ...]) -> list[Space]:
        """The spaces inside each position of a head's space, where that has these indices."""
        return [space for space in self._local if space.per == (*at, head.name)]

    def _fit_pooling(self) -> None:
        """Fits attention that stands in no layer, as where a model pools by it."""
        for space in self._movable.values():
            if inner := self._inside(space, ()):
                names = [n for n in self._names if not self.layout.placements[n].index]
                pairs = [pair for name in names for pair in self._pairs.blocks(name)]
                if any(space.name in one.names() for one, _ in pairs):  # else the base has no such
                    self._fit_heads((), space, inner, pairs, {})

    def _is_open(self, name: str) -> bool:
        """Whether a space could move and has not been fitted."""
        return name in self._movable and (name, ()) not in self._fitted

    def _fit_layer(self, index: Mapping[str, int], names: Sequence[str]) -> int:
        """Fits the spaces of one layer; returns the bytes of its tensors."""
        if layer := tuple(index.items()):
            self._fit_spaces(layer, names)
            if self.gains.settle(self._norms_of(layer)):
                # Scales were guessed wrongly: with the right ones all is fitted once more.
                self._forget(self._index(layer, names))
                self._fit_spaces(layer, names)
                self.gains.settle(self._norms_of(layer))
        return self._pairs.size(names)

    def _fit_spaces(self, layer: Layer, names: Sequence[str]) -> None:
        """Fits the spaces of one layer as far as its norms' scales are known."""
        ((_, position),) = layer
        index = self._index(layer, names)
        experts = [name for name in names if is_numbered(self.layout, name)]
        pairs: dict[str, list[BlockPair]] = {}
        readers: dict[str, tuple[TensorMap | StackMap, tuple[Real, Real]]] = {}
        for name in names:
            if name not in set(experts) and not self.shifts.are_in(name):
                tensors = self._pairs.tensors(name)
                pairs[name] = list(self._pairs.paired(name, tensors))
                if self.gains.read_by(name) and not self.gains.open_in(name):
                    readers[name] = self.change(name), tensors
        for name in filter(self.rows.read_by, pairs):
            if self.rows.guess(name, pairs):
                pairs[name] = list(self._pairs.blocks(name))
        rows = [self.layout.placements[name].rule for name in names]
        used = names_on(axis for row in rows for axis in (*row.axes, *row.slots()))
        own = [s for s in self._local if len(s.per) == 1 and s.per[0] in index and s.name in used]
        elsewhere = self._kept_elsewhere(dict(layer), names[0])
        waiting = {space.name for space in self._local if space.per[0] not in elsewhere}
        for space in self._local:
            # Heads that cannot change places, as their slopes or norms are fixed, need no match.
            if len(space.per) > 1 and space.per[0] in index and space.per[1] not in self._movable:
                self._fit_in_place(position, space, [p for found in pairs.values() for p in found])
                waiting.discard(space.name)
        for space in sorted(own, key=self._turn):
            inner = [s for s in self._local if space.name in s.per]
            shown = [pair for n, found in pairs.items() for pair in found]
            if space.name in self.layout.numbering:
                self._fit_experts(position, space, inner, shown, experts)
                continue
            if inner:
                # Scales move between gains of queries and of keys, which so tell no order.
                told = [pair for n in pairs if not self.rows.are_gains(n) for pair in pairs[n]]
                signed = {
                    leaf.name: [
                        pair
                        for name, found in pairs.items()
                        if self.rows.tell_signs(name, leaf.name)
                        for pair in found
                        if leaf.name in pair[0].names()
                    ]
                    for leaf in inner
                }
                if any(space.name in one.names() for one, _ in told):  # else no such layer
                    self._fit_heads((position,), space, inner, told, signed)
            else:
                moved = (self.gains.are_in, self.rows.are_gains)
                named = [n for n in pairs if not any(are_in(n) for are_in in moved)]
                told = [pair for name in named for pair in pairs[name]]
                seen = [view for pair in told for view in views(pair, space.name, waiting)]
                if seen and space.group:
                    fit: Callable[[Group, Sequence[View]], AxisMap] = self._method.neurons
                    if self._turn(space) == 2:
                        fit = self._method.inside
                    elif type(space.group) is SignedPermutation:  # a latent: a stream of its own
                        fit = self._method.whole
                    self._fitted[space.name, (position,)] = fit(space.group, seen)
            fitted = {space.name, *(one.name for one in inner)}
            waiting -= fitted
            for name in pairs:  # what shows spaces that wait, in the order just found
                spaces = names_on(self.layout.placements[name].rule.axes)
                if spaces & fitted and spaces & waiting:
                    pairs[name] = list(self._pairs.blocks(name))
        shown = [pair for found in pairs.values() for pair in found]
        for leaf in self._local:
            head = self.layout.spaces[leaf.per[-1]]
            if leaf.per[0] in index and head.group and not head.per:
                self._fit_inside(position, head, leaf, shown)
        self._method.layer(self.layout, position, shown)
        for name in filter(self.rows.read_by, pairs):
            self.rows.look(name, *self._pairs.tensors(name))
        for name in pairs:
            if self.gains.read_by(name):
                self.gains.look(name, slice(0, None), *self._with_all(name, readers.get(name)))

    def _with_all(
        self, name: str, known: tuple[TensorMap | StackMap, tuple[Real, Real]] | None
    ) -> tuple[Real, Real]:
        """A reader of both models after its layer was fitted, from what was read of it before."""
        change = self.change(name)
        if self.directions.over_gains(name):
            return self.directions.nearer(name, *self._pairs.sample(name, whole=True))
        if known is None or not isinstance(change, TensorMap) or self.rows.have_signs(name):
            return self._pairs.tensors(name)
        before, (one, two) = known
        assert isinstance(before, TensorMap)
        reads = self.gains.axes_of(name)
        if any(axis is not None and n not in reads for n, axis in enumerate(before.axes)):
            return self._pairs.tensors(name)  # it had moved already
        return rest_moved(change, reads, one, two)

    def _turn(self, space: Space) -> int:
        """When a space that a layer has once is fitted: each turn needs the ones before."""
        if space.name in self.layout.numbering:
            return 3
        if isinstance(space.group, Linear | Rotary) or space.name in self._shared:
            return 2  # a part of all heads of the layer: shown by them in their order
        return int(any(space.name in other.per for other in self._local))  # heads

    def _fit_experts(
        self,
        layer: int,
        outer: Space,
        inner: Sequence[Space],
        pairs: Sequence[BlockPair],
        names: Sequence[str],
    ) -> None:
        """Matches experts, or groups of experts and the experts of each; then fits inside each.

        One expert is read at a time, as those of a layer are most of its weights.
        """
        member = next((space for space in inner if space.name in self.layout.numbering), None)
        numbered = {outer.name} if member is None else {outer.name, member.name}
        closed = {space.name for space in self._local} - numbered
        shown = [
            pair
            for pair in pairs
            if numbered <= set(pair[0].names()) and not closed & set(pair[0].names())
        ]
        if not shown:
            return
        match = self._method.experts(shown, outer, member)
        self._fitted[outer.name, (layer,)] = AxisMap.monomial(match.heads)
        if member is not None:
            for place, source in enumerate(match.heads):
                order = AxisMap.monomial(match.queries[place])
                self._fitted[member.name, (layer, int(source))] = order
        leaves = [space for space in inner if numbered <= set(space.per)]
        for number, (index, parts) in enumerate(self._pairs.experts(names)):
            blocks = self._pairs.blocks_of(parts)
            for leaf in leaves:
                seen = [view for pair in blocks for view in views(pair, leaf.name)]
                if seen and leaf.group:
                    at = tuple(index.get(name, layer) for name in leaf.per)
                    self._fitted[leaf.name, at] = self._method.neurons(leaf.group, seen)
            for part in parts if number < _EXPERTS else ():  # a few tell a norm's scales
                if self.gains.read_by(part.name):
                    self._look_at_expert(part)

    def _look_at_expert(self, part: Part) -> None:
        """Lets the gains look at a tensor of an expert that is fitted."""
        change, start = self.change(part.name), 0
        if part.place is not None:
            assert isinstance(change, StackMap)
            change, start = change.slices[part.place], 1
        assert isinstance(change, TensorMap)
        reads = {axis - start for axis in self.gains.axes_of(part.name)}
        rest = rest_moved(change, reads, *part.tensors)
        self.gains.look(part.name, slice(start, None), *rest)

    def _fit_heads(
        self,
        outer: tuple[int, ...],
        head: Space,
        inner: Sequence[Space],
        pairs: Sequence[BlockPair],
        signed: Mapping[str, Sequence[BlockPair]],
    ) -> None:
        """Matches heads, or key-value groups with their query heads, then fits inside each.

        What tells the signs of a space for certain, as what writes values does, fits it alone.
        """
        leaves = [space for space in inner if space.name in self._inner]
        query = next((space for space in inner if space not in leaves), None)
        told = {name for name, found in signed.items() if len(found) > 1}
        known = {id(pair) for found in signed.values() for pair in found}
        clear = [p for p in pairs if not told & set(p[0].names()) or id(p) in known]
        match = self._method.heads(head, query, leaves, clear)
        self._fitted[head.name, outer] = AxisMap.monomial(match.heads)
        for anchor, source in enumerate(match.heads):
            at = (*outer, int(source))
            if query is not None:
                self._fitted[query.name, at] = AxisMap.monomial(match.queries[anchor])
            for leaf in leaves:
                places, certain = match.queries[anchor], signed.get(leaf.name) or pairs
                if query is None or query.name not in leaf.per:
                    self._fit_leaf(leaf, at, [(head, int(source), anchor)], query, places, certain)
                    continue
                for place, there in enumerate(places):  # each query head has one of its own
                    within = [(head, int(source), anchor), (query, int(there), place)]
                    self._fit_leaf(leaf, (*at, int(there)), within, None, places, certain)

    def _fit_leaf(
        self,
        leaf: Space,
        at: tuple[int, ...],
        within: Sequence[tuple[Space, int, int]],
        query: Space | None,
        places: Index,
        pairs: Sequence[BlockPair],
    ) -> None:
        """Fits a space inside one head.

        Args:
            leaf: the space.
            at: which instance of it, in the protected model.
            within: the spaces that it stands inside of, with the place in each, in the protected
                model and in the base.
            query: the space of the query heads that share it, if there is one.
            places: their order, for each of the base's the protected one.
            pairs: the layer's blocks in both models.
        """
        shown: list[View] = []
        gains: list[View] = []
        for p, q in pairs:
            if leaf.name not in p.names():
                continue
            for space, here, there in within:
                p, q = p.at(space.name, here), q.at(space.name, there)
            if query is not None and query.name in p.names():
                p = Block(p.atoms, p.values.take(places, p.names().index(query.name)))
            (gains if _is_gain(p, leaf, query) else shown).extend(views((p, q), leaf.name))
        # Scales may have moved between the gains of queries and of keys: rotations see that of
        # planes, and an order could take them for another one.
        if isinstance(leaf.group, Rotary) or not shown:
            shown += gains
        if shown and leaf.group:
            self._check_dense(leaf, shown)
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

    def _fit_in_place(self, layer: int, leaf: Space, pairs: Sequence[BlockPair]) -> None:
        """Fits a space inside heads that stand where the anchor's do.

        Raises:
            UnsupportedError: something moves between the head and this space.
        """
        outer = [self.layout.spaces[name] for name in leaf.per[1:]]
        if moving := [space.name for space in outer if space.group]:
            raise UnsupportedError(
                f"{leaf.name!r} cannot be fitted: {moving[0]!r} moves inside {outer[0].name!r}, "
                "which is fixed."
            )
        shown = [pair for pair in pairs if leaf.name in pair[0].names()]
        for place in product(*(range(space.size or 0) for space in outer)):
            found = []
            for one, two in shown:
                for space, at in zip(outer, place, strict=True):
                    one, two = one.at(space.name, at), two.at(space.name, at)
                found += views((one, two), leaf.name)
            if found and leaf.group:
                self._fitted[leaf.name, (layer, *place)] = self._method.inside(leaf.group, found)


def _is_gain(block: Block, leaf: Space, query: Space | None) -> bool:
    """Whether a block of one head has nothing but one number for each position of it."""
    inside = {leaf.name} if query is None else {leaf.name, query.name}
    side = block.atoms[block.names().index(leaf.name)].side
    return side == "order" and set(block.names()) <= inside


def _is_shown(space: Space, shown: Sequence[Wide]) -> bool:
    """Whether matrices show a space, one that is dense from both sides; biases and gains do not."""
    sides = {view.side for view in shown if view.columns > 1}
    return {"write", "read"} <= sides if isinstance(space.group, Linear) else bool(sides)


def _fits(place: Sequence[int], at: Sequence[int | None]) -> bool:
    """Whether an instance is one of those with these indices, as far as they are known."""
    return all(want in (None, have) for have, want in zip(place, at, strict=True))


def _has_scales(space: Space) -> bool:
    """Whether positions of a space have scales of their own."""
    return type(space.group) in (ScaledPermutation, PositiveScaledPermutation)
