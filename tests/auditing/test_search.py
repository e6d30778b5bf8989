"""The search by itself: which candidate it chooses, on how many items, and what it leaves alone."""

from types import SimpleNamespace

import pytest

from unmergeable.auditing import search as module
from unmergeable.auditing.search import (
    FIRST_RUNG,
    HOPELESS,
    SECOND_RUNG,
    Candidate,
    Reference,
    kept,
    search,
)
from unmergeable.errors import InputError
from unmergeable.evaluation.scoring import Score

ITEMS = SECOND_RUNG


def score(right, total=ITEMS):
    """The first so many items right."""
    return Score((1.0,) * right + (0.0,) * (total - right), (0.5,) * total)


# One task: the base has none right, the expert all, so that a share is a plain share of items.
PLAIN = Reference([score(0)], [score(ITEMS)])


class Judge:
    """Candidates by how many of the first and of the further items they have right."""

    def __init__(self, right):
        self.right, self.asked = right, []

    def scores(self, about, make, split, start=0, stop=-1):
        assert split == "validation"  # test items are never looked at
        self.asked.append((about["name"], start, stop))
        first, rest = self.right[about["name"]]
        return [score(first if start == 0 else rest, stop - start)]


def candidates(*names):
    return [Candidate({"name": name}, {"name": name}, lambda: None) for name in names]


def chosen(right, groups, **options):
    judge = Judge(right)
    found = search([candidates(*group) for group in groups], judge, PLAIN, **options)
    return found.candidate.label["name"], found, judge


def test_the_better_third_meets_all_items_and_the_best_on_all_of_them_wins():
    """The best on the first items is not the best on all; the worst of the six is never asked."""
    right = {"a": (4, 0), "b": (12, 4), "c": (11, 40), "d": (3, 0), "e": (2, 48), "f": (1, 0)}
    name, found, judge = chosen(right, [right])
    assert name == "c" and found.tried == 6
    assert found.share == pytest.approx((11 + 40) / SECOND_RUNG)
    assert judge.asked[:6] == [(name, 0, FIRST_RUNG) for name in right]
    assert judge.asked[6:] == [(name, FIRST_RUNG, SECOND_RUNG) for name in "bc"]


@pytest.mark.parametrize(("count", "wanted"), [(1, 1), (2, 2), (5, 2), (6, 2), (9, 3), (36, 12)])
def test_a_third_goes_on_and_two_at_least(count, wanted):
    assert kept(count) == wanted


def test_of_equals_the_first_wins_within_a_group_and_between_groups():
    right = dict.fromkeys("abcd", (8, 20))
    assert chosen(right, ["ab", "cd"])[0] == "a"
    assert chosen({**right, "d": (8, 21)}, ["ab", "cd"])[0] == "d"


def test_every_group_is_settled_while_its_candidates_are_there():
    right = {"a": (8, 8), "b": (9, 9), "c": (2, 2), "d": (10, 10)}
    settled = []
    name, found, _ = chosen(right, ["a", "b", "c", "d"], settle=settled.append)
    assert name == "d" and found.tried == 4
    assert [one.label["name"] for one in settled] == ["a", "b", "d"]  # c was no better


def test_the_best_is_refined_and_given_up_for_a_better_neighbour_alone():
    right = {"a": (8, 20), "b": (4, 4), "near": (9, 30), "far": (1, 0)}
    asked, settled = [], []

    def refine(best):
        asked.append(best.label["name"])
        return candidates("near", "far")

    name, found, _ = chosen(right, ["ab"], refine=refine, settle=settled.append)
    assert (name, found.tried, asked) == ("near", 4, ["a"])
    assert [one.label["name"] for one in settled] == ["a", "near"]
    right["near"] = (8, 20)  # no better
    name, found, _ = chosen(right, ["ab"], refine=refine)
    assert (name, found.tried) == ("a", 4)


def test_where_all_is_hopeless_no_more_items_are_spent(monkeypatch):
    """As far below the base as the expert is above it."""
    reference = Reference([score(ITEMS // 2)], [score(ITEMS)])
    judge = Judge({"a": (0, 0), "b": (0, 0)})
    refused = SimpleNamespace(refine=lambda best: pytest.fail("refined"))
    found = search([candidates("a", "b")], judge, reference, refused.refine)
    # Of the first items the base has all right: (0 - 1) / 0.5.
    assert found.share == -2.0 <= HOPELESS and found.candidate.label["name"] == "a"
    assert {stop for _, _, stop in judge.asked} == {FIRST_RUNG} and found.tried == 2
    monkeypatch.setattr(module, "HOPELESS", -3.0)
    search([candidates("a", "b")], judge, reference)
    assert judge.asked[-1] == ("b", FIRST_RUNG, SECOND_RUNG)


def test_each_evaluation_is_told():
    steps = []
    chosen({"a": (8, 8), "b": (7, 7), "c": (1, 1)}, ["abc"], advance=lambda: steps.append(1))
    assert len(steps) == 3 + 2


def test_nothing_to_try_is_refused():
    with pytest.raises(InputError, match="nothing to merge"):
        search([[], []], Judge({}), PLAIN)


def test_a_share_is_the_worst_tasks_on_the_items_that_were_asked():
    reference = Reference([score(16), score(0)], [score(48), score(32)])
    # Of 32 items the base has 16 right; the gains are those on all items: a half of both.
    asked = [score(32, 32), score(8, 32)]
    assert reference.worst_share(asked) == pytest.approx(min((1 - 0.5) / 0.5, 0.25 / 0.5))
    assert reference.worst_share([score(0, 32), score(32, 32)]) == pytest.approx(-1.0)
    # Where an expert gained nothing, its task says nothing for a merge.
    idle = Reference([score(16), score(9)], [score(48), score(9)])
    assert idle.worst_share([score(64), score(64)]) == 0.0
