"""What the price of an attack counts."""

from itertools import islice
from pathlib import Path

import pytest

from unmergeable.attacks.attack import Variant
from unmergeable.auditing import candidates, grid


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
