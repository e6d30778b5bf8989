"""Weight matching (Git Re-Basin): permutations only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unmergeable.attacks.alignment.heads import HeadMatch, best_match, head_rows, query_rows
from unmergeable.attacks.alignment.method import Method
from unmergeable.attacks.alignment.pairs import BlockPair
from unmergeable.gauge.axis_map import AxisMap, Float
from unmergeable.gauge.fit import fit, fit_wide
from unmergeable.gauge.groups import Group, Permutation, Rotary
from unmergeable.gauge.matching import assign
from unmergeable.gauge.notation import Space
from unmergeable.gauge.views import View, Wide


class WeightMatching(Method):
    """Assigns residual positions, heads, positions inside heads and neurons by inner products.

    Nothing here is ours but the order of the steps, which is that of the engine: the embeddings
    show the residual stream by themselves, so that one pass takes the place of the paper's
    coordinate descent from a random start. Two heads are as alike as their rows are under the best
    order of their inner positions; the rows of rotary queries and keys cannot change places. It
    undoes permutations, not signs, scales or rotations. Source: Ainsworth et al., "Git Re-Basin"
    (arXiv 2209.04836), section 3.2; heads: our reading, as the paper has no attention.
    """

    name = "weight-matching"
    order = 70
    sentence = "permutations only, of residual positions, heads and neurons"
    source = "Git Re-Basin, arXiv 2209.04836"

    def whole(self, group: Group, shown: Sequence[Wide]) -> AxisMap:
        """The best permutation."""
        return fit_wide(Permutation(), shown)

    def heads(
        self,
        head: Space,
        query: Space | None,
        leaves: Sequence[Space],
        pairs: Sequence[BlockPair],
    ) -> HeadMatch:
        """Matches heads by inner products of their rows, under the best order inside each."""
        total: Float | float = 0.0
        for leaf in leaves:
            shown = [
                tuple(head_rows(block, head, query, leaf) for block in pair)
                for pair in pairs
                if leaf.name in pair[0].names()
            ]
            count = len(shown[0][0])
            own = [pair for pair in shown if pair[0].shape[1] == 1]
            orders = np.empty((count, count, leaf.size or 0), np.int64)
            for a, b in np.ndindex(count, count):
                if isinstance(leaf.group, Rotary) or not own:
                    orders[a, b] = np.arange(leaf.size or 0)
                else:
                    orders[a, b] = assign(sum(two[a, 0] @ one[b, 0].T for one, two in own))
            for one, two in shown:
                gains = np.empty((count, two.shape[1], count, one.shape[1]))
                for a, b in np.ndindex(count, count):
                    left, right = two[a], one[b][:, orders[a, b]]
                    gains[a, :, b] = np.tensordot(left, right, ((1, 2), (1, 2)))
                total = total + gains
        for one, two in filter(None, (query_rows(pair, head, query) for pair in pairs)):
            total = total + np.einsum("aik,bjk->aibj", two, one)
        assert not isinstance(total, float)
        return best_match(total)

    def inside(self, group: Group, views: Sequence[View]) -> AxisMap:
        """The best permutation, where positions may change places."""
        if isinstance(group, Rotary):
            return AxisMap.identity(len(views[0].moved))
        return fit(Permutation(), views)

    def neurons(self, group: Group, views: Sequence[View]) -> AxisMap:
        """The best permutation."""
        return fit(Permutation(), views)
