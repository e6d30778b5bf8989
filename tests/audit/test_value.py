import pytest

from unmergeable.audit.value import merge_value, theft
from unmergeable.tasks.scoring import Score


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
    assert (found.estimate.low, found.estimate.high) == (1.0, 1.0)


def test_draws_are_seeded():
    def interval(seed):
        found = merge_value([score(70), score(50)], BASE, EXPERTS, seed)
        return found.estimate.low, found.estimate.high

    assert interval(0) == interval(0) != interval(1)


def test_theft_is_paired_with_the_unprotected_merge():
    """The same merge on both sides is a theft of exactly 1, however uncertain its value."""
    open_merge = merge_value([score(70), score(50)], BASE, EXPERTS)
    same = theft(open_merge, open_merge)
    assert (same.value, same.low, same.high) == (1.0, 1.0, 1.0)
    half = theft(merge_value([score(60), score(45)], BASE, EXPERTS), open_merge)
    assert half.value == pytest.approx(0.5) and half.low < 0.5 < half.high
    nothing = merge_value([score(30), score(30)], BASE, EXPERTS)
    assert theft(open_merge, nothing) is None
