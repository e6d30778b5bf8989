"""Cells measured by workers: the report is that of one process, which then measures nothing."""

import pickle
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.auditing.scene import audited, task_file
from tests.auditing.short import SMALL, shorten
from tests.executors.two_nodes import lose_one, two_nodes
from unmergeable.auditing import ensemble, memory_plan, workers
from unmergeable.auditing.audit import audit
from unmergeable.auditing.cells import FULL, Cell
from unmergeable.auditing.controls import ControlError
from unmergeable.auditing.evaluator import Evaluator
from unmergeable.auditing.grid import Grid
from unmergeable.auditing.memory_plan import check_processes
from unmergeable.auditing.workers import Measuring, in_turn, lines, parts
from unmergeable.cli import main
from unmergeable.errors import ClusterError, InputError
from unmergeable.executors import processes
from unmergeable.executors.executor import SERIAL

CLOCK = ("seconds", "multiple")
# What tells of the headline, which names the cheapest of equal thefts, and of the run.
LEFT_OUT = ("verdict", "claims", "flags", "controls", "provenance")
ALONE = 2 * 4  # what an audit measures before its cells: four models on two splits


@pytest.fixture(autouse=True)
def small(monkeypatch):
    pytest.importorskip("mergekit")
    torch.set_num_threads(1)
    monkeypatch.setattr(processes, "cores", lambda: 2)  # one thread a worker
    monkeypatch.setitem(ensemble.PRESETS, "small", SMALL)
    shorten(monkeypatch.setattr)
    workers._benches.clear()


@pytest.fixture
def here(monkeypatch):
    """The candidates that this process has run."""
    run, counted = Evaluator._measure, []

    def measure(self, merged, *where):
        counted.append(merged)
        return run(self, merged, *where)

    monkeypatch.setattr(Evaluator, "_measure", measure)
    return counted


def run(folder, **more):
    return audited(folder, "small", train=True, **more)


def figures(document):
    """All that a report says but for what hangs on a clock."""
    told = [(each["name"], each["passed"]) for each in document["controls"]]
    rest = {name: each for name, each in document.items() if name not in LEFT_OUT}
    answer = {name: document["verdict"][name] for name in ("answer", "broken")}
    return timeless({**rest, **answer, "controls": told})


def timeless(value):
    if isinstance(value, dict):
        return {name: timeless(each) for name, each in value.items() if name not in CLOCK}
    return [timeless(each) for each in value] if isinstance(value, list) else value


@pytest.fixture
def alone(tmp_path_factory):
    """The report of one process, and how many steps it took; made once."""
    if not _alone:
        told = []
        report = run(tmp_path_factory.mktemp("alone"), progress=told.append)
        _alone.extend((report, told[-1].total))
    return _alone


_alone = []


def test_processes_give_the_report_of_one_and_leave_nothing_to_it(alone, tmp_path, here):
    told, (alone, total) = [], alone
    spread = run(tmp_path, workers="2", progress=told.append)
    assert len(here) == ALONE
    done = [one.done for one in told]
    assert done == sorted(done) and told[-1].done == told[-1].total == total
    assert len(set(done)) > 12
    assert any(re.fullmatch(r"\d+ cells and lines, by 2 workers", one.what) for one in told)
    assert all(one.done <= one.total for one in told)
    assert figures(spread) == figures(alone)
    assert spread["provenance"]["evaluations"] >= alone["provenance"]["evaluations"] > 5 * ALONE
    # A price is kept with its cell, wherever that was measured.
    again = run(tmp_path)
    assert again["provenance"]["evaluations"] == 0
    assert [cell["price"] for cell in again["cells"]] == [c["price"] for c in spread["cells"]]


def test_two_nodes_of_which_one_is_lost_give_it_too(alone, tmp_path, here, monkeypatch):
    with two_nodes() as cluster:
        monkeypatch.chdir(tmp_path)  # where no node is
        lost = []

        def progress(status):
            if "by ray" in status.what and status.done > 20 and not lost:
                lost.append(status.done)
                lose_one(cluster)

        spread = run(Path(), workers="ray", progress=progress)
    assert lost and lost[0] < 60
    assert len(here) == ALONE
    assert figures(spread) == figures(alone[0])


# One worker, in this process


@pytest.fixture
def order(tmp_path, monkeypatch):
    """What a worker is given, when the audit has scored the models and not one cell."""

    def stop(self, job, items, **how):
        stopped.append(job.order)
        raise ClusterError("enough")

    stopped = []
    monkeypatch.setattr(processes.Processes, "run", stop)
    with pytest.raises(ClusterError, match="enough"):
        run(tmp_path, workers=2)
    (order,) = stopped
    return order


def work(order, *items):
    made = {}
    SERIAL.run(
        Measuring(order), items, secret=b"", advance=lambda done: None, finished=made.__setitem__
    )
    return made


def test_a_worker_makes_ready_once_and_looks_up_what_is_known(order, monkeypatch):
    prepared, prepare = [], workers.prepare
    monkeypatch.setattr(workers, "prepare", lambda *a: prepared.append(a) or prepare(*a))
    order = pickle.loads(pickle.dumps(order))
    name = "open, none, task_arithmetic"
    assert work(order, name)[name] > 2
    assert work(order, name) == {name: 0}
    ends = 2  # the models themselves, scored before
    assert work(order, "the line to open") == {"the line to open": SMALL.line - ends}
    assert len(prepared) == 1
    assert work(replace(order, mark="another"), name) == {name: 0}
    assert len(prepared) == 2 and list(workers._benches) == ["another"]


def test_what_trains_is_compared_in_the_worker_too(order, monkeypatch):
    compared = []
    monkeypatch.setattr(Grid, "measure", lambda self, cell: cell.column)
    monkeypatch.setattr(workers.baselines, "compared", lambda *given: compared.append(given[1:]))
    work(order, *parts(workers._bench(order).cells.values()))
    assert [(cell.column, found) for cell, found in compared] == [("fine_tune", "fine_tune")]


def test_what_fails_in_a_worker_is_not_kept(order, monkeypatch):
    name = "open, none, karcher"
    bench = workers._bench(order)

    def fail(*arguments):
        raise MemoryError("too many at once")

    with monkeypatch.context() as broken:
        broken.setattr(Grid, "_chosen", fail)
        assert work(order, name) == {name: 0}
    assert work(order, name)[name] > 0
    (cell,) = (each for each in bench.cells.values() if workers._name(each) == name)
    assert bench.grid.measure(cell).pop().scores


def test_whatever_a_worker_lacks_is_said(order, tmp_path, monkeypatch):
    with pytest.raises(ClusterError, match=r"other merge methods.*Install the same packages"):
        work(order, "open, none, nobody's")
    away = replace(order, folders=(*order.folders, tmp_path / "away"), mark="1")
    with pytest.raises(ClusterError, match=r"does not see .*away.*all machines share"):
        work(away, "open, none, karcher")
    (tmp_path / "empty").mkdir()
    for wrong in (replace(order, cache=tmp_path / "empty"), replace(order, code="old")):
        with pytest.raises(ClusterError, match="does not find in"):
            work(replace(wrong, mark="2"), "open, none, karcher")


def test_an_aligned_model_is_known_by_what_the_audit_made(order, tmp_path):
    """However a worker rounds: else the audit would find nothing of what was measured."""
    inputs = workers._bench(order).grid.inputs
    # A lossless lock: what was made is the open expert. The other alignment is one of others.
    assert order.aligned[FULL] == inputs.digests["original"] != order.aligned["aga"]
    assert list(order.aligned) == [FULL, "aga"]
    other = replace(order, mark="another", aligned={FULL: "abc"})
    grid, cell = workers._bench(other).grid, Cell("protected", None, FULL)
    assert grid.start(cell).model.identity == "abc"
    assert grid.start(replace(cell, align="aga")).model.identity == order.aligned["aga"]
    assert grid.start(replace(cell, align="")).model.identity == inputs.digests["protected"]


# What is asked for


def test_what_takes_long_comes_first_and_what_it_starts_from_before():
    def attack(name, **how):
        return SimpleNamespace(name=name, **{"sweeps": False, "after": None, **how})

    rows = {name: SimpleNamespace(name=name) for name in ("linear", "slerp", "arithmetic")}
    cells = [
        *(Cell("protected", row, FULL) for row in rows.values()),
        Cell("protected", rows["arithmetic"], FULL, attack("reset")),
        Cell("protected", rows["arithmetic"], FULL, attack("tune", sweeps=True, after=print)),
        Cell("protected", rows["arithmetic"], "aga"),
        Cell("protected", None, "", attack("distil", sweeps=True)),
    ]
    cost = {"linear": 5, "arithmetic": 30, "slerp": 8}
    turns = in_turn(cells, lambda cell: cost[cell.method.name] if cell.method else 8)
    assert list(parts(turns)) == [
        "protected, align, arithmetic",
        "protected, distil, no merge",
        "protected, tune, arithmetic",
        "protected, reset, arithmetic",
        "protected, align:aga, arithmetic",
        "protected, align, slerp",
        "protected, align, linear",
    ]
    drawn = lines(cells, SimpleNamespace(line=2))
    assert {name: (c.subject, c.align) for name, c in drawn.items()} == {
        "the line to protected": ("protected", ""),
        "the line to aligned": ("protected", FULL),
    }
    assert not lines(cells, SimpleNamespace(line=1))


def test_more_processes_than_fit_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(memory_plan, "available_memory", lambda: 10_000_000_000)
    each = 7 * 4 * 135_000_000 + 750_000_000  # 4.53 GB: what docs/performance.md has measured
    check_processes(135_000_000, 10_000_000_000 // each)
    with pytest.raises(InputError, match=r"3 workers need about 13.6 GB.*10.0 GB.* so 2 fit"):
        check_processes(135_000_000, 3)
    with pytest.raises(InputError, match=r"14 workers need.*so 13 fit"):
        run(tmp_path, workers=14)


@pytest.mark.parametrize("wrong", ["0", "-1", "many", 0])
def test_workers_that_are_none_are_refused_at_once(wrong, tmp_path):
    with pytest.raises(InputError, match="workers="):
        audit("nowhere", base="", original="", peers=[], tasks="nothing", workers=wrong)


def test_the_command_takes_workers_and_says_what_is_wrong_with_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("UNMERGEABLE_PROCESS_SET", "1")  # or the test would be restarted
    models = ["--base", "b", "--original", "o", "--peer", "p", "--out", str(tmp_path / "out")]
    command = ["audit", "m", *models, "--tasks", str(task_file(tmp_path))]
    assert main([*command, "--workers", "many"]) == 2
    assert "workers='many': give a number, ray, or ray://HOST:PORT." in capsys.readouterr().err


def test_workers_stop_when_the_open_expert_does_not_merge(tmp_path, monkeypatch):
    from unmergeable.auditing import controls

    def measure(self, first, rest, aligned, planned, between):
        assert {cell.subject for cell in first} == {"open"} and rest
        assert {cell.subject for cell in rest} == {"protected"}
        between()
        raise AssertionError("it went on")

    monkeypatch.setattr(workers.Workers, "measure", measure)
    monkeypatch.setattr(controls, "MERGEABLE", 2.0)
    with pytest.raises(ControlError, match="merges well"):
        run(tmp_path, workers=2)
