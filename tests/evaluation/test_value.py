import pytest

from unmergeable.evaluation.scoring import Score
from unmergeable.evaluation.value import Runs, merge_value, strength, theft, unseen


def score(correct, total=100):
    return Score((1.0,) * correct + (0.0,) * (total - correct))


BASE, EXPERTS = [score(40), score(40)], [score(80), score(60)]


@pytest.mark.parametrize(
    ("merged", "value"),
    [((80, 60), 1.0), ((70, 60), 0.75), ((80, 50), 0.5), ((90, 70), 1.0), ((30, 60), 0.0)],
)
def test_it_is_the_worse_tasks_share(merged, value):
    found = merge_value([score(c) for c in merged], BASE, EXPERTS)
    assert found.value == pytest.approx(value)
    assert found.shares == pytest.approx(((merged[0] - 40) / 40, (merged[1] - 40) / 20))
    assert 0 <= found.estimate.low <= found.value <= found.estimate.high <= 1


def test_an_expert_that_learned_nothing_gives_no_value():
    assert merge_value([score(50)], [score(50)], [score(50)]) is None


def test_the_interval_is_that_of_a_share_and_narrows_with_the_items():
    """Base all wrong, expert all right: V is a plain share, and its interval the binomial's."""
    few, many = (
        merge_value([score(n // 2, n)], [score(0, n)], [score(n, n)]) for n in (100, 10_000)
    )
    assert few.estimate.low == pytest.approx(
        0.402, abs=0.02
    ) and few.estimate.high == pytest.approx(0.598, abs=0.02)
    assert (many.estimate.high - many.estimate.low) * 10 == pytest.approx(
        few.estimate.high - few.estimate.low, rel=0.15
    )


def test_items_are_drawn_together_for_merge_and_expert():
    """A merge that answers as its expert does is worth 1 in every draw."""
    found = merge_value([score(70)], [score(10)], [score(70)])
    assert set(found.drawn) == {1.0}


def test_at_the_ends_the_interval_has_a_width():
    """What happened at none of n items may still happen: Wilson's bound, in units of the gain."""
    top = merge_value([score(70)], [score(10)], [score(70)]).estimate
    assert top.high == 1 and top.low == pytest.approx(1 - unseen(100) / 0.6)
    bottom = merge_value([score(10)], [score(10)], [score(70)]).estimate
    assert bottom.low == 0 and bottom.high == pytest.approx(unseen(100) / 0.6)
    few = merge_value([score(1, 10)], [score(1, 10)], [score(7, 10)]).estimate
    assert few.high > 4 * bottom.high
    # Far below the base nothing is left to chance.
    ruined = merge_value([score(0)], [score(40)], [score(90)]).estimate
    assert (ruined.low, ruined.high) == (0, 0)


def test_wilsons_bound():
    assert unseen(100) == pytest.approx(Score((0.0,) * 100).interval[1])
    assert unseen(100) == pytest.approx(1 - Score((1.0,) * 100).interval[0])


def test_a_gain_that_chance_explains_gives_an_interval_that_says_nothing():
    """In draws where the expert gains nothing, anything may be true."""
    found = merge_value([score(51)], [score(50)], [score(52)]).estimate
    assert (found.low, found.high) == (0, 1)


def test_the_best_is_the_strongest_then_the_cheapest_then_the_surest():
    dear, cheap = {"seconds": 9.0}, {"seconds": 1.0}
    order = [
        strength(0.5, cheap, 0.4),
        strength(0.6, dear, 0.5),
        strength(0.6, cheap, 0.4),
        strength(0.6, cheap, 0.5),
        strength(0.7, dear, 0.1),
    ]
    assert order == sorted(order) and len(set(order)) == len(order)
    assert strength(None, None) < strength(0.0, dear)


def test_draws_are_seeded():
    def interval(seed):
        found = merge_value([score(70), score(50)], BASE, EXPERTS, seed)
        return found.estimate.low, found.estimate.high

    assert interval(0) == interval(0) != interval(1)


def test_theft_is_paired_with_the_unprotected_merge():
    """The same merge on both sides is a theft of 1, however uncertain its value."""
    open_merge = merge_value([score(70), score(50)], BASE, EXPERTS)
    same = theft(open_merge, open_merge)
    width = unseen(100) / 0.2 / open_merge.value
    assert (same.value, same.low, same.high) == pytest.approx((1.0, 1 - width, 1 + width))
    worthless = theft(merge_value([score(40), score(40)], BASE, EXPERTS), open_merge)
    assert worthless.low == worthless.value == 0
    # As V's own: by the task whose expert gained more, since V is the worse task's share.
    assert worthless.high == pytest.approx(unseen(100) / 0.4 / open_merge.value)
    half = theft(merge_value([score(60), score(45)], BASE, EXPERTS), open_merge)
    assert half.value == pytest.approx(0.5) and half.low < 0.5 < half.high
    nothing = merge_value([score(30), score(30)], BASE, EXPERTS)
    assert theft(open_merge, nothing) is None


def test_of_one_run_nothing_changes():
    one = merge_value([score(60), score(50)], BASE, EXPERTS)
    runs = Runs((one,))
    assert (runs.value, runs.estimate, runs.unseen) == (one.value, one.estimate, one.unseen)
    assert (runs.drawn == one.drawn).all()


def test_runs_and_items_are_drawn_together():
    """With many items only the runs differ: the mean of three drawn from them, each case in 27."""
    low, middle, high = (
        merge_value([score(n, 10_000)], [score(0, 10_000)], [score(10_000, 10_000)])
        for n in (2000, 5000, 8000)
    )
    runs = Runs((low, middle, high))
    assert runs.value == pytest.approx(0.5)
    assert runs.estimate.low == pytest.approx(0.2, abs=0.02)
    assert runs.estimate.high == pytest.approx(0.8, abs=0.02)
    assert (runs.drawn < 0.25).mean() == pytest.approx(1 / 27, abs=0.02)
    # Runs that agree are as sure as their items: the same ones in all, so no surer.
    same = Runs((middle, middle, middle)).estimate
    assert same == middle.estimate


def test_the_mean_of_runs_has_a_width_at_the_ends():
    none = merge_value([score(10)], [score(10)], [score(70)])
    runs = Runs((none, none))
    assert runs.estimate.high == none.estimate.high > 0
    assert theft(runs, merge_value([score(60)], [score(10)], [score(70)])).high > 0
