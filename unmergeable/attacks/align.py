"""Align: brings a locked model back to its public base's coordinates, without key and without data.

The attack reads the same declarations as the lock. Space by space it fits the group element that
brings the protected tensors closest to the base's, in the order in which one fit makes the next
possible:

1. spaces of the whole model, the residual stream above all, from tensors whose other axes are fixed
   or fitted: embeddings, patch and position embeddings, heads;
2. in each layer, heads: matched by what their inner spaces cannot change, the products W_O W_V and
   W_Q' W_K of each pair of heads; query heads within their key-value groups;
3. the inner spaces of each matched head: queries and keys, values and outputs;
4. the FFN's neurons.

What a fit moves, it moves on all tensors alike, so the aligned model computes what the protected
one computes. Where a lossless element explains the tensors about as well as the best element of the
full group, the lossless one is taken (Kerckhoffs: the attacker knows that the default lock draws
those), and the lock is undone to the bit.

Price: seconds, no data. Any clean sibling of the model serves as the anchor. Source: ours; heads by
gauge invariants in the spirit of TransFusion (arXiv 2505.22697), permutations by weight matching
(Git Re-Basin, arXiv 2209.04836), dense blocks by paired gauge-fixing.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unmergeable.architectures.layout import Layout
from unmergeable.checkpoint.folder import open_folder
from unmergeable.checkpoint.header import TensorEntry
from unmergeable.checkpoint.hub import resolve
from unmergeable.checkpoint.reader import TensorReader
from unmergeable.checkpoint.rewrite import Bytes, Progress, rewrite
from unmergeable.checkpoint.staging import Staging
from unmergeable.errors import InputError, UnsupportedError
from unmergeable.gauge.axis_map import AxisMap, Float
from unmergeable.gauge.fit import View, assign, fit
from unmergeable.gauge.floats import FORMATS
from unmergeable.gauge.notation import Space
from unmergeable.gauge.strands import Block, blocks
from unmergeable.protection import copy_companions

# Columns of the residual stream that matching heads looks at: more cost time and decide nothing.
_SKETCH = 512


@dataclass(frozen=True)
class AlignReport:
    """What `align` did.

    Attributes:
        out: the aligned folder.
        before: distance of the protected weights to the base's, relative to the base's (Frobenius).
            A lock puts it near 1.4, or above.
        after: the same of the aligned weights. Fine-tuning alone puts it far below 0.1.
        seconds: wall time of fitting and writing.
    """

    out: Path
    before: float
    after: float
    seconds: float


def align(
    protected: str | Path,
    out: str | Path,
    base: str | Path,
    *,
    progress: Progress = lambda done: None,
) -> AlignReport:
    """Writes a protected model in its base's coordinates.

    Args:
        protected: the model under attack; its manifest is not read.
        out: the folder to make; absent or empty.
        base: the public base, or any clean sibling.
        progress: called with the number of bytes just fitted or written.

    Raises:
        InputError: models of different shapes.
        UnmergeableError: another of its kinds.
    """
    start = time.perf_counter()
    target, anchor = open_folder(resolve(protected)), open_folder(resolve(base))
    names = target.shapes.keys() & anchor.shapes.keys()
    for name in sorted(names):
        if target.shapes[name] != anchor.shapes[name]:
            raise InputError(
                f"{target.path} and {anchor.path} are not of one family: {name!r} is "
                f"{target.shapes[name]} in one and {anchor.shapes[name]} in the other."
            )
    layout = Layout.of(target.config, target.shapes)
    with TensorReader(target) as moved, TensorReader(anchor) as wanted:
        gauge = Alignment(layout, moved, wanted, names)
        gauge.fit_all(progress)

    def transform(entry: TensorEntry, data: Bytes) -> Bytes:
        change = layout.tensor_map(entry.name, gauge)
        return change.apply(data, entry.shape, entry.dtype, allow_non_finite=True)

    with Staging(out, None) as staging:
        rewrite(target, staging, transform, hash_files="output", progress=progress)
        copy_companions(target, staging, target.companions)
        staging.publish()
    return AlignReport(staging.out, *gauge.distances(), time.perf_counter() - start)


class Alignment:
    """A gauge that is fitted instead of drawn.

    Args:
        layout: of both models.
        protected: its tensors.
        anchor: the base's.
        names: the tensors that both have.
    """

    def __init__(
        self, layout: Layout, protected: TensorReader, anchor: TensorReader, names: Iterable[str]
    ) -> None:
        self._layout, self._protected, self._anchor = layout, protected, anchor
        self._fitted: dict[tuple[str, tuple[int, ...]], AxisMap] = {}
        self._movable = layout.movable()
        self._squares = np.zeros(3)
        self._by_layer: dict[tuple[tuple[str, int], ...], list[str]] = defaultdict(list)
        for name in sorted(names):
            self._by_layer[tuple(sorted(layout.placements[name].index.items()))].append(name)

    def __call__(self, space: Space, instance: tuple[int, ...]) -> AxisMap:
        """The fitted element; the identity for what is fixed or not fitted yet."""
        found = self._fitted.get((space.name, instance))
        return AxisMap.identity(space.size or 0) if found is None else found

    def distances(self) -> tuple[float, float]:
        """Relative Frobenius distance of the weights to the anchor's, before and after."""
        before, after, whole = self._squares
        return float(np.sqrt(before / whole)), float(np.sqrt(after / whole))

    def fit_all(self, progress: Progress) -> None:
        """Fits every space of the model."""
        self._fit_global()
        for index, names in self._by_layer.items():
            tensors = {name: self._pair(name) for name in names}
            if index:
                self._fit_layer(dict(index), tensors)
            for name, (moved, anchor) in tensors.items():
                back = self._layout.tensor_map(name, self)(moved)
                gaps = ((moved - anchor) ** 2).sum(), ((back - anchor) ** 2).sum()
                self._squares += (*gaps, (anchor**2).sum())
                progress(self._protected.entry(name).size)

    def _pair(self, name: str) -> tuple[Float, Float]:
        return _values(self._protected, name), _values(self._anchor, name)

    def _blocks(self, name: str, moved: Float, anchor: Float) -> Iterable[tuple[Block, Block]]:
        """A tensor's blocks in both models, with all that is fitted so far applied."""
        rule = self._layout.placements[name].rule
        back = self._layout.tensor_map(name, self)(moved)
        pair = (blocks(rule.axes, self._layout.spaces, tensor) for tensor in (back, anchor))
        return zip(*pair, strict=True)

    def _fit_global(self) -> None:
        """Fits the spaces that the whole model shares."""
        for name, space in self._movable.items():
            if space.per:
                continue
            views = []
            for tensor, placement in self._layout.placements.items():
                used = [atom for axis in placement.rule.axes for atom in axis.names()]
                if used.count(name) and tensor in self._protected and tensor in self._anchor:
                    others = (n for n in used if n != name)
                    if used.count(name) == len(used) > 1 or any(map(self._is_open, others)):
                        continue
                    for pair in self._blocks(tensor, *self._pair(tensor)):
                        views += _views(pair, name)
            if views and space.group:
                self._fitted[name, ()] = fit(space.group, views)

    def _is_open(self, name: str) -> bool:
        """Whether a space could move and has not been fitted."""
        return name in self._movable and (name, ()) not in self._fitted

    def _fit_layer(
        self, index: Mapping[str, int], tensors: Mapping[str, tuple[Float, Float]]
    ) -> None:
        """Fits the spaces of one layer."""
        (position,) = index.values()
        local = [s for s in self._movable.values() if s.per and s.per[0] in index]
        own = [space for space in local if len(space.per) == 1]
        heads = [s for s in own if any(s.name in other.per for other in local)]
        pairs = [pair for name, both in tensors.items() for pair in self._blocks(name, *both)]
        for head in heads:
            inner = [space for space in local if head.name in space.per]
            self._fit_heads(position, head, inner, pairs)
        for space in own:
            views = [view for pair in pairs for view in _views(pair, space.name)]
            if space not in heads and views and space.group:
                self._fitted[space.name, (position,)] = fit(space.group, views)

    def _fit_heads(
        self,
        layer: int,
        head: Space,
        inner: Sequence[Space],
        pairs: Sequence[tuple[Block, Block]],
    ) -> None:
        """Matches heads (or key-value groups with their query heads), then fits inside each."""
        queries = [space for space in inner if _numbers(space, inner, pairs)]
        leaves = [space for space in inner if space not in queries]
        query = queries[0] if queries else None
        gains = _head_gains(head, query, leaves, pairs)
        count, inside = gains.shape[:2]
        best = np.empty((count, count))
        order = np.empty((count, count, inside), np.int64)
        for a in range(count):
            for b in range(count):
                order[a, b] = assign(gains[a, :, b, :])
                best[a, b] = gains[a, np.arange(inside), b, order[a, b]].sum()
        match = assign(best)
        self._fitted[head.name, (layer,)] = AxisMap.monomial(match)
        for anchor, moved in enumerate(match):
            if query is not None:
                matched = AxisMap.monomial(order[anchor, moved])
                self._fitted[query.name, (layer, int(moved))] = matched
            for leaf in leaves:
                views = []
                for one, two in pairs:
                    if leaf.name not in one.names():
                        continue
                    p, q = one.at(head.name, int(moved)), two.at(head.name, anchor)
                    if query is not None and query.name in p.names():
                        axis = p.names().index(query.name)
                        p = Block(p.atoms, np.take(p.values, order[anchor, moved], axis))
                    views += _views((p, q), leaf.name)
                if views and leaf.group:
                    self._fitted[leaf.name, (layer, int(moved))] = fit(leaf.group, views)


def _numbers(space: Space, inner: Sequence[Space], pairs: Sequence[tuple[Block, Block]]) -> bool:
    """Whether a space numbers copies of another inner one, as query heads number their queries."""
    others = {other.name for other in inner} - {space.name}
    for block, _ in pairs:
        names = block.names()
        if space.name in names and others & set(names[names.index(space.name) + 1 :]):
            return True
    return False


def _views(pair: tuple[Block, Block], name: str) -> list[View]:
    """What a pair of blocks shows of a space: nothing, or one view."""
    moved, anchor = pair
    if moved.names().count(name) != 1:
        return []
    side = moved.atoms[moved.names().index(name)].side
    return [View(side, moved.rows(name), anchor.rows(name))]


def _head_gains(
    head: Space, query: Space | None, leaves: Sequence[Space], pairs: Sequence[tuple[Block, Block]]
) -> Float:
    """How alike each anchor head and each moved head are, by what their inner spaces cannot change.

    For an inner space with a writing and a reading matrix, that is the product R' W: Frobenius
    cosines of these products, summed over the inner spaces.

    Returns:
        shape (heads, queries, heads, queries): anchor's first.
    """
    total: Float | float = 0.0
    for leaf in leaves:
        sides: dict[str, list[tuple[Float, Float]]] = {"write": [], "read": []}
        for one, two in pairs:
            names = one.names()
            if leaf.name not in names or head.name not in names or one.values.ndim < 3:
                continue
            keys = [head.name, leaf.name]
            side = one.atoms[names.index(leaf.name)].side
            if query is not None and query.name in names:
                rows = [b.rows(head.name, query.name, leaf.name)[..., :_SKETCH] for b in (one, two)]
            else:
                rows = [b.rows(*keys)[:, None, :, :_SKETCH] for b in (one, two)]
            sides[side].append((rows[0], rows[1]))
        if not all(sides.values()):
            continue
        (w, w0), (r, r0) = sides["write"][0], sides["read"][0]
        total = total + _product_cosines(w0, r0, w, r)
    if isinstance(total, float):
        raise UnsupportedError(f"nothing tells the positions of {head.name!r} apart.")
    return total


def _product_cosines(w0: Float, r0: Float, w: Float, r: Float) -> Float:
    """<R0' W0, R' W> for all pairs of heads, normalised, from small products only."""

    def inner(wa: Float, ra: Float, wb: Float, rb: Float) -> Float:
        left = np.einsum("gqim,hpjm->gqhpij", wa, wb, optimize=True)
        right = np.einsum("gqim,hpjm->gqhpij", ra, rb, optimize=True)
        return np.asarray((left * right).sum((-2, -1)))

    def norm(wa: Float, ra: Float) -> Float:
        left = np.einsum("gqim,gqjm->gqij", wa, wa)
        right = np.einsum("gqim,gqjm->gqij", ra, ra)
        return np.asarray(np.sqrt(np.maximum((left * right).sum((-2, -1)), 1e-300)))

    table = inner(w0, r0, w, r)
    return np.asarray(table / norm(w0, r0)[:, :, None, None] / norm(w, r)[None, None])


def _values(tensors: TensorReader, name: str) -> Float:
    """A tensor as float64; zeros for buffers such as position ids, where nothing can be fitted."""
    entry = tensors.entry(name)
    if entry.dtype not in FORMATS:
        return np.zeros(entry.shape)
    return FORMATS[entry.dtype].values(tensors.read(name)).reshape(entry.shape)
