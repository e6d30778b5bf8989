"""Matches heads by what their inner spaces cannot change.

For an inner space with a writing matrix W and a reading matrix R, that is the product R' W: of
values and outputs it is W_O W_V, of queries and keys it is W_Q' W_K. In the spirit of TransFusion
(arXiv 2505.22697), which compares their singular values; with an anchor the products themselves say
more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unmergeable.attacks.alignment.pairs import BlockPair
from unmergeable.errors import UnsupportedError
from unmergeable.gauge.axis_blocks import Block
from unmergeable.gauge.axis_map import Float, Index
from unmergeable.gauge.groups import Permutation, RotaryTurns, SignedPermutation
from unmergeable.gauge.matching import assign
from unmergeable.gauge.notation import Space

# Columns of the residual stream that matching looks at: more cost time and decide nothing.
_SKETCH = 256


@dataclass(frozen=True, eq=False)
class HeadMatch:
    """Which head of the protected model stands for which of the anchor's.

    Attributes:
        heads: shape (heads,), the protected head for each of the anchor's.
        queries: shape (heads, queries), within each anchor head the protected query head for each
            of the anchor's; zeros of shape (heads, 1) where heads have no queries of their own.
    """

    heads: Index
    queries: Index


def by_products(
    head: Space, query: Space | None, leaves: Sequence[Space], pairs: Sequence[BlockPair]
) -> HeadMatch:
    """Matches heads by the Frobenius cosines of their products, summed over the inner spaces.

    Where no such product tells query heads apart, rows do that each of them has one of.

    Raises:
        UnsupportedError: no inner space has both a writing and a reading matrix.
    """
    total: Float | float = 0.0
    rows = list(filter(None, (query_rows(pair, head, query) for pair in pairs)))
    for leaf in leaves:
        if rows and query is not None and query.name in leaf.per:
            continue  # the rows say as much, and are far fewer
        sides: dict[str, list[tuple[Float, Float]]] = {"write": [], "read": []}
        for pair in pairs:
            names = pair[0].names()
            if leaf.name in names and head.name in names and len(names) > 2:
                side = pair[0].atoms[names.index(leaf.name)].side
                if side == "order":  # gains say nothing of signs and scales
                    continue
                one, two = (head_rows(block, head, query, leaf) for block in pair)
                sides[side].append((one[..., :_SKETCH], two[..., :_SKETCH]))
        if not sides["write"] and _is_own_dual(leaf):  # keys that are values, and outputs
            sides["write"] = sides["read"][1:]
        if all(sides.values()):
            (w, w0), (r, r0) = sides["write"][0], sides["read"][0]
            total = total + _product_cosines(w0, r0, w, r)
    if query is not None and (isinstance(total, float) or total.shape[1] < (query.size or 1)):
        total = total + sum(_row_cosines(one, two) for one, two in rows)
    if isinstance(total, float):
        raise UnsupportedError(f"nothing tells the positions of {head.name!r} apart.")
    return best_match(total)


def _is_own_dual(leaf: Space) -> bool:
    """Whether what reads a space moves as what writes into it."""
    return isinstance(leaf.group, RotaryTurns) or type(leaf.group) in (
        Permutation,
        SignedPermutation,
    )


def by_rows(blocks: Sequence[BlockPair], outer: Space, inner: Space | None) -> HeadMatch:
    """Matches experts, in groups or not, by the inner products of the router's rows.

    Args:
        blocks: of both models, with the experts' spaces and others that are fixed or fitted.
        outer: the experts' space, or that of their groups.
        inner: the space of the experts of one group, if they come in groups.
    """
    names = [outer.name] if inner is None else [outer.name, inner.name]
    total: Float | float = 0.0
    for pair in blocks:
        one, two = (
            block.rows(*names).reshape(
                outer.size or 0,
                -1,
                block.values.size
                // math.prod(space.size or 1 for space in (outer, inner) if space),
            )
            for block in pair
        )
        # Gains of a sum of products make the distance least, as the norms do not depend on the
        # order.
        total = total + np.asarray(np.einsum("aik,bjk->aibj", two, one), np.float64)
    assert not isinstance(total, float)
    return best_match(total)


def head_rows(block: Block, head: Space, query: Space | None, leaf: Space) -> Float:
    """A block as (heads, queries, positions of the leaf, columns); queries 1 if it has none."""
    if query is not None and query.name in block.names():
        return block.rows(head.name, query.name, leaf.name)
    return block.rows(head.name, leaf.name)[:, None]


def best_match(gains: Float) -> HeadMatch:
    """The match with the largest sum of gains.

    Args:
        gains: shape (heads, queries, heads, queries), anchor's first.
    """
    count, inside = gains.shape[:2]
    every = np.arange(count)
    # Each query head's best alone bounds what two heads have in common from above. Where the heads
    # that this chooses have no query head twice, the bound is reached: that match is the best one,
    # and only the rest take a solver for each pair of heads.
    match = assign(gains.max(axis=3).sum(axis=1))
    chosen = gains[every, :, match].argmax(axis=2)
    if (np.sort(chosen, axis=1) == np.arange(inside)).all():
        return HeadMatch(match, chosen)
    best = np.empty((count, count))
    order = np.empty((count, count, inside), np.int64)
    for a, b in np.ndindex(count, count):
        order[a, b] = assign(gains[a, :, b, :])
        best[a, b] = gains[a, np.arange(inside), b, order[a, b]].sum()
    match = assign(best)
    return HeadMatch(match, order[every, match])


def query_rows(pair: BlockPair, head: Space, query: Space | None) -> tuple[Float, Float] | None:
    """Rows of which each query head has one, of both models; None if a block has none such.

    Where heads have decays or time steps of their own, these tell them apart.
    """
    names = pair[0].names()
    if query is None or not {head.name, query.name} <= set(names) or len(names) != 3:
        return None
    if pair[0].atoms[-1].side != "read":
        return None
    one, two = (block.rows(head.name, query.name).astype(np.float64) for block in pair)
    return one, two


def _row_cosines(one: Float, two: Float) -> Float:
    """Cosines of the rows of all pairs of query heads."""
    units = [x / np.maximum(np.linalg.norm(x, axis=2, keepdims=True), 1e-30) for x in (one, two)]
    return np.asarray(np.einsum("aik,bjk->aibj", units[1], units[0]))


def _product_cosines(w0: Float, r0: Float, w: Float, r: Float) -> Float:
    """<R0' W0, R' W> for all pairs of heads, normalised, from small products only."""
    table = _inner(w0, r0, w, r)
    norms = [np.sqrt(np.maximum(_squares(*pair), 1e-30)) for pair in ((w0, r0), (w, r))]
    return np.asarray(table / norms[0][:, :, None, None] / norms[1][None, None])


def _inner(wa: Float, ra: Float, wb: Float, rb: Float) -> Float:
    """Inner products of R_a' W_a and R_b' W_b, all heads a and b: (heads, queries) twice."""
    return np.asarray((_gram(wa, wb) * _gram(ra, rb)).sum((-2, -1)))


def _gram(a: Float, b: Float) -> Float:
    """Inner products of the rows of all heads: (heads, queries, heads, queries, n, n)."""
    table = a.reshape(-1, a.shape[-1]) @ b.reshape(-1, b.shape[-1]).T
    return table.reshape(*a.shape[:3], *b.shape[:3]).transpose(0, 1, 3, 4, 2, 5)


def _squares(w: Float, r: Float) -> Float:
    """Squared norms of R' W: (heads, queries)."""
    left, right = (np.matmul(x, x.swapaxes(-1, -2)) for x in (w, r))
    return np.asarray((left * right).sum((-2, -1)))
