"""What verbs tell while they work, and what the command line shows of it."""

import io

import pytest
from rich.console import Console

from unmergeable.cli.output import progress_bar
from unmergeable.progress import Counter, Status


def test_a_counter_adds_up_and_estimates_what_is_left(monkeypatch):
    clock = iter([0.0, 10.0, 30.0, 40.0])
    monkeypatch.setattr("unmergeable.progress.time.perf_counter", lambda: next(clock))
    told = []
    count = Counter(told.append, "merging", 40)
    for just in (10, 20, 10):
        count(just)
    assert told == [
        Status("merging", 10, 40, "bytes", 30.0),
        Status("merging", 30, 40, "bytes", 10.0),
        Status("merging", 40, 40, "bytes", 0.0),
    ]


def test_what_an_earlier_run_did_says_nothing_of_the_time_left(monkeypatch):
    clock = iter([0.0, 10.0])
    monkeypatch.setattr("unmergeable.progress.time.perf_counter", lambda: next(clock))
    told = []
    count = Counter(told.append, "growing", 50, "steps")
    count.skip(30)
    count(10, "growing layer 3")
    assert told == [Status("growing layer 3", 40, 50, "steps", 10.0)]


def test_more_than_was_planned_leaves_no_estimate():
    told = []
    Counter(told.append, "merging", 1)(2)
    assert told[0].seconds_left is None


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_shows_bytes_and_steps(terminal, capsys):
    file = io.StringIO()
    with progress_bar(Console(file=file, force_terminal=terminal, width=100)) as progress:
        progress(Status("protecting", 1_500_000, 3_000_000, "bytes", 5.0))
        progress(Status("scoring", 1, 4, "steps", 180.0))
        progress(Status("scoring", 2, 4, "steps", 120.0))
        progress(Status("[odd] name", 3, 4, "steps"))
    lines = capsys.readouterr().err.splitlines()
    if terminal:
        assert "[odd] name" in file.getvalue() and "3/4" in file.getvalue() and not lines
    else:
        assert [line.split()[-1] for line in lines] == ["scoring", "name"]
        assert lines[0].startswith("[1/4]  3 min left") and not file.getvalue()
