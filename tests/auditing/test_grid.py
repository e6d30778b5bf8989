"""What the price of an attack counts."""

from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest

from unmergeable.attacks.attack import Attack, Variant
from unmergeable.auditing import candidates, grid
from unmergeable.auditing.cells import Price
from unmergeable.auditing.ensemble import Row
from unmergeable.auditing.grid import Grid, Start
from unmergeable.auditing.race import ITEMS, Reference
from unmergeable.auditing.search import Candidate
from unmergeable.evaluation.scoring import Score
from unmergeable.merging.task_vectors import Computed


def test_seconds_of_choosing_settings_are_no_part_of_a_price(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(grid.time, "perf_counter", lambda: clock[0])

    def variants():
        clock[0] += 10  # seven of them spent on a sweep
        yield Variant("first", {}, fresh=True, sweep_seconds=7)
        clock[0] += 2
        yield Variant("second", {})
        clock[0] += 5
        yield Variant("third", {}, fresh=True)

    made = grid._timed(variants())
    found = []
    for _, seconds in islice(made, 3):
        found.append(seconds)
        clock[0] += 100  # scoring is not counted
    assert found == pytest.approx([3, 5, 5])


def test_cells_are_stale_when_any_code_that_makes_candidates_changes():
    root = Path(candidates.__file__).parents[1]
    assert all((root / package).is_dir() for package in candidates.CODE)


class Judge:
    """Scores merges of one number by how many items that number has right, and counts."""

    def __init__(self):
        self.asked = Counter()
        self.tasks, self.fingerprint = [], {}

    def scores(self, about, make, split, start=0, stop=ITEMS):
        self.asked[split] += 1
        right = round(float(make()["weight"]))
        marks = tuple(float((i + 1) * right // ITEMS > i * right // ITEMS) for i in range(ITEMS))
        return [Score(marks[start:stop])]

    def making(self, about):
        return 0.5

    def are_known(self, about, split):
        return False

    def forget(self):
        pass


class Merges:
    """Candidates: the subject's number times each setting's."""

    corpora, inputs, seed, peers = (), "", 0, ()
    base = SimpleNamespace(identity="base", state={})

    def all(self, row, subject):
        for setting in row.settings:
            times = setting["times"]
            about = {"of": subject.identity, "times": times}
            yield Candidate(
                dict(setting),
                about,
                lambda times=times: {"weight": times * subject.state["weight"]},
            )

    def around(self, row, subject):
        return None


@pytest.fixture
def judged(tmp_path):
    judge = Judge()
    reference = Reference([Score((0.0,) * ITEMS)], [Score((1.0,) * ITEMS)])
    inputs = SimpleNamespace(
        candidates=Merges(), evaluator=judge, reference=reference, thief=None, layout=None
    )
    return Grid(inputs, tmp_path), judge


ROW = Row("scaling", "scaling", "plugin", settings=({"times": 1}, {"times": 4}, {"times": 2}))


def subject(torch, number):
    model = candidates.Model({"weight": torch.tensor(float(number))}, "subject")
    return Start(model, Price(seconds=1.0))


def test_what_has_one_candidate_meets_no_validation_items(judged):
    torch = pytest.importorskip("torch")
    made, judge = judged
    found = made.merge(replace(ROW, settings=({"times": 2},)), subject(torch, 8))
    assert (found.label, found.tried) == ({"times": 2}, 1)
    assert judge.asked == {"test": 1} and found.price.seconds == 1.5
    found = made.merge(ROW, subject(torch, 8))
    assert (found.label, found.tried) == ({"times": 4}, 3)
    assert judge.asked["test"] == 2 and judge.asked["validation"] > 0


def test_a_variant_is_computed_once_and_the_best_ones_merge_alone_is_tested(judged):
    torch = pytest.importorskip("torch")
    made, judge = judged
    computed = Counter()

    def variants(thief, state):
        for number in (3, 12, 1):

            def make(name, number=number):
                computed[number] += 1
                return torch.tensor(float(number))

            yield Variant(f"number {number}", Computed(state, make))

    attack = Attack("numbers", "numbers", "Tries numbers.", "data-free", before=variants)
    found = made.repair(attack, ROW, subject(torch, 8))
    assert (found.label, found.tried) == ({"variant": "number 12", "times": 4}, 9)
    assert [score.accuracy for score in found.scores] == [48 / ITEMS]
    assert computed == {3: 1, 12: 1, 1: 1} and judge.asked["test"] == 1
