import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.gauge.strategies import matrix, randomness, seeds
from unmergeable.gauge import fit as module
from unmergeable.gauge.fit import error, fit
from unmergeable.gauge.groups import GROUPS, Kind
from unmergeable.gauge.matching import assign, clear_match
from unmergeable.gauge.paired import Pair
from unmergeable.gauge.views import View

SIDES = {
    "permutation": ["write", "read"],
    "signed permutation": ["write", "order"],
    "scaled permutation": ["write", "read", "order"],
    "positive scaled permutation": ["write", "read"],
    "linear": ["write", "read"],
    "rotary half": ["write", "read"],
    "rotary interleaved": ["write", "read"],
    "rotary interleaved turns": ["write", "read"],
    "rotary half quarter turns": ["write", "read", "order"],
    "rotary half signs": ["write", "read"],
    "rotary axial signs": ["write", "read"],
}


def hidden(name, seed, kind, noise):
    """An element, and views that show it, with noise on the anchor's side."""
    draw = np.random.default_rng(seed)
    element = GROUPS[name].draw(8, randomness(seed), kind)
    views = []
    for side in SIDES[name]:
        moved = draw.normal(size=(8, 60))
        change = {"write": element, "read": element.dual, "order": element.order}[side]
        views.append(View(side, moved, change(moved) + noise * draw.normal(size=(8, 60))))
    return element, views


@given(st.sampled_from(sorted(SIDES)), seeds)
def test_lossless_elements_are_found_exactly(name, seed):
    element, views = hidden(name, seed, Kind(), noise=0.02)
    found = fit(GROUPS[name], views)
    np.testing.assert_array_equal(matrix(found), matrix(element))


@given(st.sampled_from(sorted(SIDES)), seeds)
def test_general_elements_are_found_up_to_the_noise(name, seed):
    element, views = hidden(name, seed, Kind(general=True), noise=0.02)
    found = fit(GROUPS[name], views)
    np.testing.assert_allclose(matrix(found), matrix(element), atol=0.15)
    # Least squares: the fit is at least as close as the truth.
    assert error(views, found) <= error(views, element) * (1 + 1e-6)


@given(seeds)
def test_no_monomial_matrix_is_nearer_than_the_bound_says(seed):
    draw = np.random.default_rng(seed)
    write, read = ((draw.normal(size=(8, 60)), draw.normal(size=(8, 60))) for _ in range(2))
    pair = Pair.of(write, read)
    for _ in range(20):
        scale = np.exp2(draw.uniform(-2, 2, 8)) * draw.choice([-1.0, 1.0], 8)
        monomial = np.eye(8)[draw.permutation(8)] * scale
        assert pair.error(monomial) >= pair.monomial_bound()


def test_a_dense_matrix_is_found_without_a_search_for_an_order(monkeypatch):
    element, views = hidden("linear", 1, Kind(general=True), noise=0.02)
    searched = []
    search = module._scaled_permutation
    monkeypatch.setattr(module, "_scaled_permutation", lambda *a, **k: searched.append(a))
    found = fit(GROUPS["linear"], views)
    np.testing.assert_allclose(matrix(found), matrix(element), atol=0.15)
    assert not searched
    monkeypatch.setattr(module, "_scaled_permutation", search)
    element, views = hidden("linear", 1, Kind(), noise=0.02)
    np.testing.assert_array_equal(matrix(fit(GROUPS["linear"], views)), matrix(element))


@given(st.sampled_from(sorted(SIDES)), seeds)
def test_what_is_found_belongs_to_the_group_whatever_the_views(name, seed):
    """Unrelated views: nothing to find, but both sides must still move by one element."""
    draw = np.random.default_rng(seed)
    views = [View(s, draw.normal(size=(8, 60)), draw.normal(size=(8, 60))) for s in SIDES[name]]
    found = fit(GROUPS[name], views)
    x, y = draw.normal(size=(2, 8))
    assert found(x) @ found.dual(y) == pytest.approx(x @ y, rel=1e-6)


@given(seeds)
def test_positive_scales_stay_positive_whatever_the_views_ask_for(seed):
    rows = np.random.default_rng(seed).normal(size=(2, 1, 60))  # one position: nothing to match
    views = [View(side, p, -2 * p) for side, p in zip(("write", "read"), rows, strict=True)]
    assert (fit(GROUPS["positive scaled permutation"], views).scale > 0).all()
    views = [View(side, p, -p) for side, p in zip(("write", "read"), rows, strict=True)]
    assert (fit(GROUPS["scaled permutation"], views).scale < 0).all()


@given(seeds)
def test_assignments_are_the_best_ones(seed):
    gains = np.random.default_rng(seed).normal(size=(5, 5))
    from itertools import permutations

    best = max(sum(gains[i, p[i]] for i in range(5)) for p in permutations(range(5)))
    chosen = assign(gains)
    assert sorted(chosen) == list(range(5))
    assert gains[np.arange(5), chosen].sum() == pytest.approx(best)


WIDE = [
    "permutation", "signed permutation", "scaled permutation", "positive scaled permutation",
]  # fmt: skip


@given(st.sampled_from(WIDE), seeds)
def test_a_sketch_decides_as_all_columns_do(name, seed):
    """Matrices so wide that a sketch is taken; the element is found all the same."""
    draw = np.random.default_rng(seed)
    element = GROUPS[name].draw(8, randomness(seed), Kind())
    moved = draw.normal(size=(8, 2000))
    views = [
        View("write", moved, element(moved) + 0.02 * draw.normal(size=moved.shape)),
        View("read", moved, element.dual(moved) + 0.02 * draw.normal(size=moved.shape)),
    ]
    assert clear_match([(views[0].moved, views[0].anchor)], signed=True) is not None
    np.testing.assert_array_equal(matrix(fit(GROUPS[name], views)), matrix(element))


@pytest.mark.parametrize("table", [1, 24, 1 << 21])
@given(st.booleans(), seeds)
def test_a_sketch_in_blocks_of_rows_decides_as_it_does_at_once(table, signed, seed):
    draw = np.random.default_rng(seed)
    moved, order = draw.normal(size=(8, 2000)), draw.permutation(8)
    signs = draw.choice([-1.0, 1.0], 8) if signed else np.ones(8)
    anchor = signs[:, None] * moved[order] + 0.02 * draw.normal(size=moved.shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unmergeable.gauge.matching._TABLE", table)
        found = clear_match([(moved, anchor)], signed)
        lost = clear_match([(moved, np.concatenate([anchor[:7], anchor[:1]]))], signed)
    np.testing.assert_array_equal(found, [order, signs])
    assert lost is None  # two rows want the same one


@pytest.mark.parametrize("name", ["scaled permutation", "positive scaled permutation", "linear"])
@given(st.booleans(), seeds)
def test_scales_in_pieces_are_those_of_the_whole(name, transposed, seed):
    _, views = hidden(name, seed, Kind(general=True), noise=0.02)
    if transposed:  # as where a tensor has the space on its columns
        views = [
            View(v.side, np.ascontiguousarray(v.moved.T).T, np.ascontiguousarray(v.anchor.T).T)
            for v in views
        ]
    whole = matrix(fit(GROUPS[name], views))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unmergeable.gauge.fit._PIECE", 17)
        np.testing.assert_allclose(matrix(fit(GROUPS[name], views)), whole, rtol=1e-9)


def test_near_duplicates_are_not_left_to_a_sketch():
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(8, 2000))
    rows[1] = rows[0] + 0.01 * draw.normal(size=2000)
    anchor = rows + 0.01 * draw.normal(size=rows.shape)
    assert clear_match([(rows, anchor)], signed=False) is None


@given(
    st.sampled_from(["linear", "rotary half", "scaled permutation", "positive scaled permutation"]),
    seeds,
)
def test_a_bias_that_outweighs_its_matrix_does_not_hide_a_lossless_element(name, seed):
    """As in real vision transformers, where it is five times its matrix."""
    element, views = hidden(name, seed, Kind(), noise=0.02)
    draw = np.random.default_rng(seed)
    for side, change in (("write", element), ("read", element.dual)):
        bias = 1000 * draw.normal(size=(8, 1))
        views.append(View(side, bias, change(bias) * (1 + 0.02 * draw.normal(size=(8, 1)))))
    np.testing.assert_array_equal(matrix(fit(GROUPS[name], views)), matrix(element))
