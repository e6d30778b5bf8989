"""When a candidate may be dropped: the bets by themselves, and the error that they state."""

import itertools

import numpy as np
import pytest

from unmergeable.auditing import race
from unmergeable.auditing.race import ERROR, ITEMS, TOLERANCE, Reference, winnings
from unmergeable.auditing.search import LOOKS
from unmergeable.evaluation.scoring import Score


def marks(*values):
    return Score(tuple(map(float, values)))


def tasks(count=1, items=ITEMS):
    """The base has none right, the experts all, so that a share is a plain share of items."""
    return Reference([marks(*[0] * items)] * count, [marks(*[1] * items)] * count)


def first(scores, seen):
    return [Score(score.marks[:seen]) for score in scores]


@pytest.mark.parametrize(
    "leads",
    [
        (1, 1, 1, -1, -1, -1),
        (1, 1, 0, 0, -1, -1),
        (0, 0, 0, 0, 0, -1),
        (0.2, 0.2, 0.2, 0.2, 0.2, -1),
        (1, 0.5, 0.25, 0, -0.5, 1),
    ],
)
@pytest.mark.parametrize("seen", range(1, 6))
def test_bets_are_fair_where_the_claim_is_just_true(leads, seen):
    """Over all orders of the items, what they make of 1 is 1 in the mean; of more, it is less."""
    orders = np.array(list(itertools.permutations(leads)), float)
    won = [winnings(order[:seen], len(leads), sum(leads)) for order in orders]
    assert np.mean(won) == pytest.approx(1)
    more = [winnings(order[:seen], len(leads), sum(leads) + 0.5) for order in orders]
    assert np.mean(more) < 1


def test_what_cannot_come_true_is_certain():
    assert winnings(np.ones(34), 64, 0.0) == np.inf
    assert winnings(np.ones(32), 64, 0.0) < np.inf  # they may end equal
    assert winnings(np.array([1.0] * 10 + [0.0] * 50), 64, 0.0) == np.inf
    assert winnings(np.zeros(48), 64, 0.0) == pytest.approx(1.0)
    assert winnings(np.array([]), 64, 0.0) == pytest.approx(1.0)
    assert winnings(-np.ones(63), 64, 0.0) < 1


def test_the_longer_a_lead_lasts_the_more_it_says():
    """Four items in front, and then no difference: what is left to make up for it gets less."""
    lead = np.array([1.0] * 4 + [0.0] * 44)
    won = [winnings(lead[:seen], ITEMS, 0.0) for seen in (4, *LOOKS)]
    assert won == sorted(won) and won[0] < 1 / ERROR < won[-1]
    assert winnings(np.array([1.0] + [0.0] * 47), ITEMS, 0.0) < 1 / ERROR


def test_a_hopeless_candidate_is_dropped_at_the_first_look():
    reference = tasks(2)
    rival = [marks(*[1] * ITEMS)] * 2
    ruined = [marks(*[0] * LOOKS[0])] * 2
    assert reference.lags(ruined, rival)
    # one lost task is enough, since the worst one counts
    assert reference.lags([marks(*[1] * LOOKS[0]), marks(*[0] * LOOKS[0])], rival)


def test_a_candidate_that_looks_worse_so_far_stays():
    reference = tasks(2)
    rival = [marks(*[1, 0, 1, 0] * 16)] * 2
    behind = [marks(*[1, 0, 0, 0]), marks(*[1, 0, 1, 0])]
    assert reference.worst_share(behind) < reference.worst_share(rival)
    assert not reference.lags(behind, rival)
    assert not reference.lags(first(rival, 4), rival)  # as good as equal, so far
    assert reference.lags(first(rival, 48), rival)  # there it cannot end far above any more


def test_what_may_end_little_above_its_rival_is_let_go():
    reference = tasks()
    rival = [marks(*[1, 0] * 32)]
    assert reference.lags(first(rival, 48), rival)  # equal, and 16 items are left
    ahead = [marks(*[1, 0] * 8, *[1] * 32)]
    assert not reference.lags(ahead, rival)
    # what cannot be told from above is never above by more
    assert reference.lags([marks(*[1] * 32)], [marks(*[1] * ITEMS)])


def test_the_worst_tasks_may_differ():
    """The rival fails on one task, the candidate as badly on the other: neither is the worse."""
    reference = tasks(2)
    rival = [marks(*[1, 1, 1, 1] * 16), marks(*[1, 0, 0, 0] * 16)]
    other = [marks(*[1, 1, 0, 0] * 12), marks(*[1, 1, 1, 1] * 12)]
    assert not reference.lags(other, rival)
    assert reference.lags(other, [marks(*[1, 1, 1, 1] * 16), marks(*[1, 1, 1, 0] * 16)])


def test_lagging_on_all_tasks_says_more_than_on_one():
    reference, rival = tasks(2), [marks(*[1, 0] * (ITEMS // 2))] * 2
    behind, equal = marks(*[0, 0, 1, 0, 0, 0]), marks(*[1, 0, 0, 1, 1, 1])
    assert reference.lags([behind, behind], rival)
    assert not reference.lags([behind, equal], rival)
    assert not tasks(1).lags([behind], rival[:1])


def test_until_something_is_better_than_the_base_the_base_is_the_rival():
    half = marks(*[1, 0] * 50)  # of more items than are used
    reference = Reference([half], [marks(*[1] * 100)])
    assert reference.items == ITEMS
    assert reference.lags([marks(*[0] * 16)], None)
    assert not reference.lags(first([half], 16), None)


def test_a_task_that_nobody_learned_decides_nothing():
    idle = marks(*[1, 0] * (ITEMS // 2))
    reference = Reference([idle], [idle])
    assert not reference.lags([marks(*[0] * 48)], [marks(*[1] * ITEMS)])
    assert reference.worst_share([marks(*[0] * 48)]) == 0.0


GAP = TOLERANCE + 0.01  # the closer to what may be lost, the harder


def _changed(draw, also):
    """A candidate's marks, and a rival's, who has fewer right, and others wrong besides."""
    own = draw.permutation([1.0] * 44 + [0.0] * 20)
    right, wrong = draw.permutation(np.flatnonzero(own)), draw.permutation(np.flatnonzero(own == 0))
    rival = own.copy()
    rival[right[: also + round(GAP * ITEMS)]] = 0
    rival[wrong[:also]] = 1
    return own, rival


def _shrunk(own, other):
    """A candidate's marks, and a rival's in proportion to others, lower by the gap in the mean."""
    return own, other * (own.mean() - GAP) / other.mean()


# From a generator to a candidate's marks and its rival's.
PAIRS = {
    "mostly the same items": lambda draw: _changed(draw, 1),
    "many other items": lambda draw: _changed(draw, 16),
    "shares of tokens": lambda draw: _shrunk(draw.beta(8, 2, ITEMS), draw.beta(8, 2, ITEMS)),
    "rarely much": lambda draw: _shrunk(
        np.where(draw.random(ITEMS) < 0.3, 1.0, 0.4), np.full(ITEMS, 0.5)
    ),
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("count", [1, 2])
def test_the_stated_error_holds_in_any_order_of_the_items(pair, count):
    """Of candidates that end above their rival's tolerance, at most one of twenty is dropped."""
    draw = np.random.default_rng(7)
    reference, trials, dropped = tasks(count), 200, 0
    for _ in range(trials):
        pairs = [PAIRS[pair](draw) for _ in range(count)]
        order = [draw.permutation(ITEMS) for _ in range(count)]
        mine = [marks(*own[at]) for (own, _), at in zip(pairs, order, strict=True)]
        theirs = [marks(*rival[at]) for (_, rival), at in zip(pairs, order, strict=True)]
        assert reference.worst_share(mine) > reference.worst_share(theirs) + TOLERANCE
        dropped += any(reference.lags(first(mine, seen), theirs) for seen in LOOKS)
    assert dropped <= ERROR * trials


def test_a_larger_error_drops_more(monkeypatch):
    reference, rival = tasks(), [marks(*[1, 0] * (ITEMS // 2))]
    behind = [marks(*[0, 0, 1, 0])]
    assert not reference.lags(behind, rival)
    monkeypatch.setattr(race, "ERROR", 0.5)
    assert reference.lags(behind, rival)
    monkeypatch.setattr(race, "ERROR", 0.0)
    assert not reference.lags([marks(*[0] * 48)], rival)
