"""The search by itself: which candidate it chooses, on how many items, and what it leaves alone."""

import pytest

from unmergeable.auditing import race
from unmergeable.auditing.race import ITEMS, Reference
from unmergeable.auditing.search import LOOKS, Candidate, search
from unmergeable.errors import InputError
from unmergeable.evaluation.scoring import Score

ALL = [*zip((0, *LOOKS), (*LOOKS, ITEMS), strict=True)]


def spread(right, total=ITEMS):
    """So many items right, evenly among the others."""
    return Score(tuple(float((i + 1) * right // total > i * right // total) for i in range(total)))


# One task: the base has none right, the expert all, so that a share is a plain share of items.
PLAIN = Reference([spread(0)], [spread(ITEMS)])


class Judge:
    """Candidates by how each item is answered."""

    def __init__(self, scores):
        self.known, self.asked = scores, []

    def scores(self, about, make, split, start=0, stop=-1):
        assert split == "validation"  # test items are never looked at
        self.asked.append((about["name"], start, stop))
        return [Score(score.marks[start:stop]) for score in self.known[about["name"]]]


def candidates(names):
    return [Candidate({"name": name}, {"name": name}, lambda: None) for name in names]


def chosen(right, reference=PLAIN, **options):
    """The best of some candidates by how many they have right."""
    judge = Judge({name: [spread(each)] for name, each in right.items()})
    found = search(candidates(right), judge, reference, **options)
    return found.candidate.label["name"], found, judge


def test_the_best_on_all_items_wins_and_what_is_surely_worse_stops_early():
    name, found, judge = chosen({"a": 44, "b": 4, "c": 52, "d": 48})
    assert name == "c" and found.share == pytest.approx(52 / ITEMS)
    assert found.scores[0].total == ITEMS
    asked = {who: [span for each, *span in judge.asked if each == who] for who in "abcd"}
    assert [tuple(span) for span in asked["c"]] == ALL
    assert len(asked["b"]) == 1
    # each meets its items in a row, so that it is made once
    assert [who for who, *_ in judge.asked] == sorted(who for who, *_ in judge.asked)


def test_without_an_error_every_candidate_meets_all_items(monkeypatch):
    monkeypatch.setattr(race, "ERROR", 0.0)
    name, _, judge = chosen({"a": 44, "b": 4, "c": 52})
    assert name == "c" and len(judge.asked) == 3 * len(ALL)


def test_a_bad_start_is_forgiven():
    """Behind on the first items, and the best in the end."""
    slow = Score((0.0,) * 4 + (1.0,) * (ITEMS - 4))
    even = spread(44)
    judge = Judge({"even": [even], "slow": [slow]})
    assert sum(slow.marks[: LOOKS[0]]) < sum(even.marks[: LOOKS[0]])
    assert search(candidates(["even", "slow"]), judge, PLAIN).candidate.label == {"name": "slow"}


def test_of_equals_the_first_wins():
    assert chosen(dict.fromkeys("abcd", 28))[0] == "a"
    assert chosen({**dict.fromkeys("abc", 28), "d": 44})[0] == "d"


def test_an_earlier_search_is_raced_against_and_stays_unless_beaten():
    best = chosen({"a": 32})[1]
    name, found, judge = chosen({"b": 2, "c": 0}, best=best)
    assert found is best and name == "a" and len(judge.asked) == 2
    assert chosen({"d": 48}, best=best)[0] == "d"


def test_where_all_is_worse_than_the_base_the_least_bad_so_far_is_chosen():
    """What is dropped is told by the items that it met; it never replaces what met all."""
    reference = Reference([spread(ITEMS // 2)], [spread(ITEMS)])
    name, found, judge = chosen({"a": 0, "b": 16}, reference)
    assert name == "b" and found.scores is None and -1 <= found.share < 0
    assert max(stop for _, _, stop in judge.asked) < ITEMS
    name, found, _ = chosen({"a": 0, "b": 44, "c": 1}, reference)
    assert name == "b" and found.scores is not None


def test_a_share_on_easy_items_is_no_reason_to_replace_the_best():
    """Dropped with all first items right but a few, where its rival had all: 64 are the measure."""
    easy = Score((1.0,) * 32 + (0.0,) * 32)
    worse = Score((1.0, 0.0) * 16 + (0.0,) * 32)
    judge = Judge({"easy": [easy], "worse": [worse]})
    found = search(candidates(["easy", "worse"]), judge, PLAIN)
    assert judge.asked[-1][2] < ITEMS  # dropped, at a share as high as the best one's on all
    assert found.candidate.label == {"name": "easy"}


def test_tasks_of_unequal_size_are_asked_alike():
    """A sum over all items of both is compared, so both have as many."""
    reference = Reference([spread(0), spread(0, 40)], [spread(ITEMS), spread(40, 40)])
    judge = Judge({"a": [spread(40), spread(30, 40)]})
    found = search(candidates("a"), judge, reference)
    assert judge.asked[-1] == ("a", 32, 40)
    assert [score.total for score in found.scores] == [40, 40]


def test_each_evaluation_is_told():
    steps = []
    _, _, judge = chosen({"a": 48, "b": 32, "c": 1}, advance=lambda: steps.append(1))
    assert len(steps) == len(judge.asked)


def test_nothing_to_try_is_refused():
    with pytest.raises(InputError, match="nothing to merge"):
        search([], Judge({}), PLAIN)


def test_a_share_is_the_worst_tasks_on_the_items_that_were_asked():
    first = [Score((1.0,) * n + (0.0,) * (ITEMS - n)) for n in (16, 0, 48, 32)]
    reference = Reference(first[:2], first[2:])
    # Of 32 items the base has 16 right; the gains are those on all items: a half of both.
    asked = [Score((1.0,) * 32), Score((1.0,) * 8 + (0.0,) * 24)]
    assert reference.worst_share(asked) == pytest.approx(min((1 - 0.5) / 0.5, 0.25 / 0.5))
    ruined = [Score((0.0,) * 32), Score((1.0,) * 32)]
    assert reference.worst_share(ruined) == pytest.approx(-1.0)
    # Where an expert gained nothing, its task says nothing for a merge.
    idle = Reference([first[0], spread(9)], [first[2], spread(9)])
    assert idle.worst_share([spread(64), spread(64)]) == 0.0
