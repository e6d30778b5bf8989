"""The match of heads with the largest sum of gains, query heads of each included."""

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given

from tests.gauge.strategies import seeds
from unmergeable.attacks.alignment.heads import best_match


def total(gains, heads, queries):
    return sum(
        gains[a, q, heads[a], queries[a][q]] for a, q in product(*map(range, gains.shape[:2]))
    )


@pytest.mark.parametrize(("heads", "queries"), [(3, 1), (1, 3), (3, 2), (2, 3)])
@given(seeds)
def test_no_match_is_better(heads, queries, seed):
    """Unrelated gains: query heads compete for the same one, so that a solver is needed."""
    gains = np.random.default_rng(seed).normal(size=(heads, queries, heads, queries))
    orders = list(permutations(range(queries)))
    best = max(
        total(gains, order, inside)
        for order in permutations(range(heads))
        for inside in product(orders, repeat=heads)
    )
    found = best_match(gains)
    assert sorted(found.heads) == list(range(heads))
    assert all(sorted(row) == list(range(queries)) for row in found.queries)
    assert total(gains, found.heads, found.queries) == pytest.approx(best)


@given(seeds)
def test_heads_that_are_clear_take_no_solver(seed):
    draw = np.random.default_rng(seed)
    heads, queries = draw.permutation(5), np.array([draw.permutation(4) for _ in range(5)])
    gains = 0.1 * draw.random((5, 4, 5, 4))
    for a, q in product(range(5), range(4)):
        gains[a, q, heads[a], queries[a, q]] += 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unmergeable.gauge.matching.optional", None)
        found = best_match(gains)
    np.testing.assert_array_equal(found.heads, heads)
    np.testing.assert_array_equal(found.queries, queries)
