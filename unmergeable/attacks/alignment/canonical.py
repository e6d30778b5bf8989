"""Canonicalisation: each model is brought to a normal form of its own, without a base."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from unmergeable.architectures.layout import Layout
from unmergeable.attacks.alignment.engine import Alignment
from unmergeable.attacks.alignment.fitted import Fitted
from unmergeable.attacks.alignment.heads import HeadMatch, head_rows, query_rows
from unmergeable.attacks.alignment.method import Method
from unmergeable.attacks.alignment.normal_form import normal_form
from unmergeable.attacks.alignment.pairing import Shape
from unmergeable.attacks.alignment.pairs import BlockPair
from unmergeable.checkpoint.header import TensorEntry
from unmergeable.checkpoint.reader import TensorReader
from unmergeable.checkpoint.rewrite import Advance
from unmergeable.gauge.axis_map import AxisMap, Float
from unmergeable.gauge.groups import Group
from unmergeable.gauge.memory import Bytes
from unmergeable.gauge.notation import Gauge, Space
from unmergeable.gauge.stack_map import StackMap
from unmergeable.gauge.tensor_map import TensorMap
from unmergeable.gauge.views import View, Wide, whole


class Canonical(Method):
    """Moves each model by what is read from it alone; no weight of one meets one of the other.

    A thief without the base canonicalises the protected model and the peer, and merges them there.
    Here the peer is the anchor: with c1 the element that canonicalises the protected model and c0
    the anchor's, the output is moved by c0^-1 c1, so that it stands where the anchor does. The
    function stays, whatever goes wrong. See `normal_form` for the form of each space.

    Fragile by nature: positions are sorted by one number each, and the numbers of n positions lie
    1/n apart, while fine-tuning moves them by its own relative size. A residual stream of hundreds
    and an FFN of thousands of positions get many neighbours swapped, and each swapped pair is lost
    to a merge; what follows from a wrong order (signs, phases) is then wrong too. Attention's
    balanced forms suffer where singular values nearly coincide. So this undoes a lock where the
    fine-tuning is far smaller than 1/n, and the benchmarks say what is left on a real model.
    Source: ours; the balanced form is that of balanced factorisations.
    """

    name = "canonical"
    order = 80
    sentence = "a normal form of each model by itself: sorted, balanced; no base is compared"
    source = "ours"
    compares = False

    def fit(
        self,
        layout: Layout,
        protected: TensorReader,
        anchor: TensorReader,
        shapes: Mapping[str, Shape],
        advance: Advance,
    ) -> Fitted:
        """Canonicalises both models and composes the way there with the way back."""
        forms = []
        for reader, report in ((protected, advance), (anchor, lambda done: None)):
            form = Alignment(layout, reader, reader, shapes, self)
            form.fit_all(report)
            forms.append(form)
        there, back = forms

        @lru_cache(maxsize=4096)
        def element(space: Space, instance: tuple[int, ...]) -> AxisMap:
            # Inside a head or an expert: the anchor's in the same canonical place.
            at, source = dict(zip(space.per, instance, strict=True)), {}
            for name in space.per:
                outer = layout.spaces[name]
                if outer.group is None:  # the order of layers, say
                    source[name] = at[name]
                    continue
                # Heads have an order per layer; T5's layers share one.
                order = there(outer, tuple(at[one] for one in outer.per)).source
                (place,) = np.flatnonzero(order == at[name])
                known = back(outer, tuple(source[one] for one in outer.per)).source
                source[name] = int(known[place])
            anchor = tuple(source.values())
            return _composed(back(space, anchor).inverse, there(space, instance))

        return Composed(layout, element)

    def whole(self, group: Group, shown: Sequence[Wide]) -> AxisMap:
        """The model's own normal form."""
        return normal_form(group, whole(shown))

    def heads(
        self,
        head: Space,
        query: Space | None,
        leaves: Sequence[Space],
        pairs: Sequence[BlockPair],
    ) -> HeadMatch:
        """Sorts heads, and query heads within each, by the norms of their products R' W."""
        total: Float | float = 0.0
        for leaf in leaves:
            grams: dict[str, Float] = {}
            for block, _ in pairs:
                names = block.names()
                if leaf.name in names and len(names) > 2:
                    rows = head_rows(block, head, query, leaf)
                    side = block.atoms[names.index(leaf.name)].side
                    grams[side] = np.matmul(rows, rows.swapaxes(-1, -2))
            if {"write", "read"} <= grams.keys():
                norms = (grams["write"] * grams["read"]).sum((-2, -1))
                total = total + norms / norms.mean()
        for own, _ in filter(None, (query_rows(pair, head, query) for pair in pairs)):
            squares = (own**2).sum(-1)
            total = total + squares / squares.mean()
        assert not isinstance(total, float)
        order = np.argsort(-total.sum(1), kind="stable")
        return HeadMatch(order, np.argsort(-total, axis=1, kind="stable")[order])

    def experts(self, blocks: Sequence[BlockPair], outer: Space, inner: Space | None) -> HeadMatch:
        """Sorts groups of experts, and experts within each, by the norms of the router's rows."""
        total: Float | float = 0.0
        for block, _ in blocks:
            names = [outer.name] if inner is None else [outer.name, inner.name]
            squares = (block.rows(*names).astype(np.float64) ** 2).sum(-1)
            total = total + squares.reshape(outer.size or 0, -1)
        assert not isinstance(total, float)
        order = np.argsort(-total.sum(1), kind="stable")
        return HeadMatch(order, np.argsort(-total, axis=1, kind="stable")[order])

    def inside(self, group: Group, views: Sequence[View]) -> AxisMap:
        """The model's own normal form."""
        return normal_form(group, views)

    def neurons(self, group: Group, views: Sequence[View]) -> AxisMap:
        """The model's own normal form."""
        return normal_form(group, views)


@dataclass(frozen=True, eq=False)
class Composed:
    """A gauge that was composed of two: nothing but spaces moves."""

    layout: Layout
    gauge: Gauge

    def __call__(self, space: Space, instance: tuple[int, ...]) -> AxisMap:
        """The element of a space."""
        return self.gauge(space, instance)

    def change(self, name: str) -> TensorMap | StackMap:
        """The map of a tensor of the protected model."""
        return self.layout.tensor_map(name, self.gauge)

    def moved(self, entry: TensorEntry, data: Bytes) -> Bytes:
        """The aligned bytes of a tensor of the protected model."""
        change = self.change(entry.name)
        return change.apply(data, entry.shape, entry.dtype, allow_non_finite=True, rounds=True)


def _composed(second: AxisMap, first: AxisMap) -> AxisMap:
    """The map that does one after the other."""
    one, two = first.scale, second.scale
    if one is not None and two is not None:
        return AxisMap.monomial(first.source[second.source], two * one[second.source])
    return AxisMap.block(second(first(np.eye(first.size))))
