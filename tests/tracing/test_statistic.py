"""The statistic of a mark: its p-value holds for any suspect, and its weight is the merge's."""

import numpy as np
import pytest

from unmergeable.tracing.statistic import SignStatistic, bounded, unexplained

RANDOM = np.random.default_rng(0)


def signs(count, random=RANDOM):
    return random.choice(np.array([-1, 1], np.int8), count)


@pytest.mark.parametrize("kind", ["few", "one large", "alike", "heavy tails"])
def test_chance_exceeds_the_bound_no_more_often_than_it_says(kind):
    """Whatever the suspect: what is drawn is the signs, and nothing is assumed of the rest."""
    rest = {
        "few": np.array([1.0, 2.0, 0.5]),
        "one large": np.array([100.0, *np.ones(30)]),
        "alike": np.ones(200),
        "heavy tails": np.random.default_rng(1).standard_cauchy(50),
    }[kind]
    draws = np.array([SignStatistic.of(rest, signs(rest.size), 0.3).z for _ in range(4000)])
    for at in (1.0, 2.0, 3.0):
        bound = np.exp(-(at**2) / 2)
        assert np.mean(draws >= at) <= bound + 3 * np.sqrt(bound / 4000)


def test_a_p_value_is_the_bound_corrected_for_what_was_tried():
    found = SignStatistic(product=6.0, square=1.0, marked=1.0, count=1)
    assert found.z == 6.0
    assert found.log10_p() == pytest.approx(-18 / np.log(10))
    assert found.log10_p(1000) == pytest.approx(-18 / np.log(10) + 3)
    assert SignStatistic(product=-6.0, square=1.0).log10_p() == 0.0
    assert SignStatistic().z == 0.0 and SignStatistic().log10_p(5) == 0.0


@pytest.mark.parametrize("weight", [1.0, 0.3, 0.0])
def test_the_weight_is_that_of_the_merge(weight):
    mark = signs(200_000)
    rest = 0.02 * RANDOM.normal(size=mark.size) + weight * 0.05 * 0.02 * mark
    found, low, high = SignStatistic.of(rest, mark, 0.05 * 0.02).weight
    assert found == pytest.approx(weight, abs=0.15)
    assert low < weight < high and high - low < 0.3


def test_the_weight_is_that_of_the_merge_where_numbers_were_clipped():
    """As in few bits: some blocks are far coarser than others."""
    mark = signs(400_000)
    rest = np.repeat(RANDOM.exponential(size=4000) ** 3, 100) * RANDOM.uniform(-1, 1, mark.size)
    kept, share = bounded(rest + 0.05 * mark, 0.1)
    assert share < 0.9
    assert SignStatistic.of(kept, mark, 0.1, share).weight[0] == pytest.approx(0.5, abs=0.03)


def test_no_matrix_drowns_the_others():
    """Neither one that was overwritten nor one that is as good as the base's."""
    mark, other = signs(200_000), signs(200_000)
    rest = 0.02 * RANDOM.normal(size=mark.size) + 0.001 * mark
    alone = SignStatistic.of(rest, mark, 0.001)
    for size in (1e4, 1e-9):
        both = alone + SignStatistic.of(size * RANDOM.normal(size=other.size), other, 0.001)
        assert both.z > alone.z / 2
    assert SignStatistic.of(rest, mark, 0.0) == SignStatistic()


@pytest.mark.parametrize("wild", [np.nan, np.inf, -np.inf, 1e300])
@pytest.mark.parametrize("share", [0.02, 0.2])
def test_wild_numbers_are_clipped_and_the_others_are_not(wild, share):
    rest = RANDOM.normal(size=50_000)
    rest[: int(50_000 * share)] = wild
    found, kept = bounded(rest, 0.1)
    limit = np.abs(found).max()
    assert kept == pytest.approx(np.mean(np.abs(np.nan_to_num(rest)) <= limit))
    assert 0.4 < limit < 5
    rest = rest[10_000:]
    assert (found[10_000:] == np.clip(rest, -limit, limit)).all()
    assert (bounded(rest, 0.1)[0] == rest).all()
    assert not bounded(np.full(5, np.nan), 1.0)[0].any() and not bounded(np.zeros(5), 1.0)[0].any()
    assert np.isfinite(bounded(np.array([wild, 1.0]), 0.0)[0]).all()


@pytest.mark.parametrize("tiny", [0.0, 1e-9])
def test_numbers_with_no_mark_do_not_clip_those_that_have_it(tiny):
    """As where two licensees' copies are averaged: half of the marks cancel out."""
    rest = tiny * RANDOM.normal(size=1000)
    rest[::5] = 0.1
    assert (bounded(rest, 0.1)[0] == rest).all()


def test_evidence_of_parts_adds_up():
    mark, rest = signs(1000), RANDOM.normal(size=1000)
    one, two = (
        SignStatistic.of(rest[:300], mark[:300], 9.0),
        SignStatistic.of(rest[300:], mark[300:], 9.0),
    )
    whole = SignStatistic.of(rest, mark, 9.0)
    assert (one + two).z == pytest.approx(whole.z) and (one + two).count == whole.count


def test_what_known_models_explain_is_taken_out_and_nothing_else():
    one, two, rest = RANDOM.normal(size=(3, 500))
    left = unexplained(0.4 * one - 2 * two + rest, [one, two, one + two])
    assert abs(left @ one) < 1e-9 and abs(left @ two) < 1e-9
    assert np.linalg.norm(left) <= np.linalg.norm(rest)
    assert unexplained(rest, [np.zeros(500)]) is rest
