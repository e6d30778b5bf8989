"""Cells of an audit measured by workers ahead of it, so that the audit itself looks them up.

A worker opens the same folders, plans the same cells and measures those that it is handed. What it
finds is kept by content in the cache, which all share, so that the report is made as if one process
had measured everything. A failure in a worker is not kept: the audit measures that cell itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from uuid import uuid4

from unmergeable.auditing import baselines, memory_plan
from unmergeable.auditing.audit_inputs import AuditInputs, prepare
from unmergeable.auditing.candidates import code_digest
from unmergeable.auditing.cells import Cell
from unmergeable.auditing.curves import DRAWN, Curves
from unmergeable.auditing.ensemble import Preset
from unmergeable.auditing.grid import CELLS, FAULTS, Grid
from unmergeable.auditing.plan import plan, steps
from unmergeable.auditing.planned_steps import PlannedSteps
from unmergeable.errors import ClusterError
from unmergeable.evaluation.task_file import TaskFile
from unmergeable.executors.executor import Advance, Do, Finished
from unmergeable.executors.processes import Processes, computers_of
from unmergeable.models.device import chosen, running_on


@dataclass(frozen=True)
class Order:
    """What a worker has to know; it can be pickled.

    Attributes:
        folders: protected, base, original and the peers.
        tasks: what models are scored on.
        preset: which part of the ensemble.
        cache: where measurements are kept.
        seed: of merges, attacks and bootstrap draws.
        aligned: what the release is known by under each alignment, as the audit made it.
        device: where models are run, as it was asked for.
        code: the hash of the code that measures.
        mark: of this audit alone.
    """

    folders: tuple[Path, ...]
    tasks: TaskFile
    preset: Preset
    cache: Path
    seed: int
    aligned: Mapping[str, str] = field(default_factory=dict)
    device: str = field(default_factory=chosen)
    code: str = field(default_factory=code_digest)
    mark: str = field(default_factory=lambda: uuid4().hex)


@dataclass(frozen=True)
class Measuring:
    """The job: an item is the name of a part, its result how many candidates were run for it."""

    order: Order

    @contextmanager
    def started(self, secret: bytes, threads: int) -> Iterator[Do]:
        """See [`Job`][unmergeable.executors.executor.Job]; nothing here is secret."""
        if threads:
            import torch

            torch.set_num_threads(threads)
        with running_on(self.order.device):
            bench = _bench(self.order)

            def do(items: Sequence[str], advance: Advance, finished: Finished) -> None:
                for item in items:
                    finished(item, bench.measure(item))

            yield do


class Workers:
    """Measures ahead, in processes of this machine or on a Ray cluster.

    Args:
        workers: see [`computers_of`][unmergeable.executors.processes.computers_of].
        inputs: of the audit.
        preset: which part of the ensemble.
        cache: where measurements are kept.

    Raises:
        InputError: workers that are none, or more than fit into memory.
        MissingExtraError: ray is not installed.
    """

    def __init__(self, workers: str, inputs: AuditInputs, preset: Preset, cache: Path) -> None:
        self._executor, self._inputs, self._preset = computers_of(workers), inputs, preset
        if isinstance(self._executor, Processes):
            memory_plan.check_processes(inputs.parameters, self._executor.count)
        self._title = f"{workers} workers" if workers.isdecimal() else workers
        models = (inputs.protected, inputs.base, inputs.original, *inputs.peers)
        folders = tuple(Path(model.local).absolute() for model in models)
        self._order = Order(folders, inputs.tasks, preset, cache.absolute(), inputs.seed)

    def measure(
        self,
        first: Sequence[Cell],
        rest: Sequence[Cell],
        aligned: Mapping[str, str],
        planned: PlannedSteps,
        between: Callable[[], None],
    ) -> None:
        """Measures cells, and the lines to the models that they start from.

        Args:
            first: cells that a control looks at.
            rest: those that the workers go on with meanwhile.
            aligned: what the release is known by under each alignment.
            planned: is told of all their steps.
            between: called when the first ones are measured.

        Raises:
            ClusterError: processes or machines were lost, or do not share what they must.
        """
        counts = self._counts(first)
        waiting = set(counts)
        counts |= self._counts(rest)
        left, title = sum(counts.values()), f"{len(counts)} cells and lines, by {self._title}"
        if not waiting:
            between()
        planned.start(title, left)

        def finished(item: str, measured: int) -> None:
            nonlocal left
            self._inputs.evaluator.measured += measured
            planned.step(counts[item])
            left -= counts[item]
            if waiting:
                waiting.discard(item)
                if not waiting:
                    between()
                    planned.start(title, left)

        job = Measuring(replace(self._order, aligned=aligned))
        self._executor.run(
            job, list(counts), secret=b"", advance=lambda done: None, finished=finished
        )
        planned.finish()

    def _counts(self, cells: Sequence[Cell]) -> dict[str, int]:
        """The steps of each part that there is something to do for, by name."""
        cost = partial(steps, self._inputs)
        counts = {_name(cell): cost(cell) for cell in in_turn(cells, cost)}
        counts |= dict.fromkeys(lines(cells, self._preset), self._preset.line)
        return {name: count for name, count in counts.items() if count}


def in_turn(cells: Sequence[Cell], cost: Callable[[Cell], int]) -> list[Cell]:
    """Cells in the order of work: merges that attacks start from, then what takes long.

    Args:
        cells: which.
        cost: how many evaluations a cell takes; training comes on top.
    """
    bases = {
        _name(replace(cell, attack=None))
        for cell in cells
        if cell.attack is not None and cell.attack.after is not None
    }

    def turn(cell: Cell) -> int:
        if cell.attack is None:
            return 0 if _name(cell) in bases else 4
        if cell.attack.sweeps:
            return 1 if cell.method is None else 2
        return 3

    return sorted(cells, key=lambda cell: (turn(cell), -cost(cell)))


def parts(cells: Sequence[Cell]) -> dict[str, Cell]:
    """Cells by name."""
    return {_name(cell): cell for cell in cells}


def lines(cells: Sequence[Cell], preset: Preset) -> dict[str, Cell]:
    """By name, a cell of each model that a line is drawn to; none where the preset draws none."""
    found = {(cell.subject, cell.align): cell for cell in cells if preset.line > 1}
    return {f"the line to {DRAWN[at][0]}": cell for at, cell in found.items() if at in DRAWN}


def _name(cell: Cell) -> str:
    method = "no merge" if cell.method is None else cell.method.name
    return f"{cell.subject}, {cell.column}, {method}"


@dataclass(frozen=True, eq=False)
class _Bench:
    """What a worker measures with, and what there is to measure."""

    grid: Grid
    preset: Preset
    cells: Mapping[str, Cell]
    lines: Mapping[str, Cell]

    def measure(self, item: str) -> int:
        """Measures a part, and returns how many candidates were run for it.

        Raises:
            ClusterError: this machine's plan does not have it.
        """
        if item not in self.cells and item not in self.lines:
            raise ClusterError(
                f"a worker cannot measure {item!r}: it has other merge methods or attacks than "
                "this machine. Install the same packages on all."
            )
        evaluator = self.grid.inputs.evaluator
        before = evaluator.measured
        with suppress(*FAULTS):  # nothing of a failure is kept: the audit meets it by itself
            self._draw(self.lines[item]) if item in self.lines else self._find(self.cells[item])
        evaluator.forget()
        return evaluator.measured - before

    def _find(self, cell: Cell) -> None:
        found = self.grid.measure(cell)
        if cell.attack is not None and cell.attack.sweeps:
            baselines.compared(self.grid, cell, found)

    def _draw(self, cell: Cell) -> None:
        curves = Curves(self.grid.inputs, self.preset.line)
        curves.add("", "", self.grid.start(cell), lambda: None)


_benches: dict[str, _Bench] = {}  # of the last audit that this process worked for


def _bench(order: Order) -> _Bench:
    """Makes ready, once per process and audit."""
    if order.mark not in _benches:
        _benches.clear()
        _benches[order.mark] = _prepared(order)
    return _benches[order.mark]


def _prepared(order: Order) -> _Bench:
    """Opens the models of an audit in a worker.

    Raises:
        ClusterError: it does not see what the others see.
    """
    for folder in (*order.folders, order.cache):
        if not folder.is_dir():
            raise ClusterError(
                f"a worker does not see {folder}: models, data and the cache must lie on a file "
                "system that all machines share, under the same path."
            )
    protected, base, original, *peers = order.folders
    inputs = prepare(
        protected, base, original, peers, order.tasks, order.cache, order.seed, PlannedSteps()
    )
    if inputs.evaluator.measured or order.code != code_digest():
        raise ClusterError(
            f"a worker does not find in {order.cache} what was measured before: it sees another "
            "folder there, or has other versions of unmergeable, torch or transformers, or another "
            "kind of device."
        )
    cells, _ = plan(inputs, order.preset)
    inputs.evaluator.forget()
    grid = Grid(inputs, order.cache / CELLS, identities=order.aligned, keeps_failures=False)
    return _Bench(grid, order.preset, parts(cells), lines(cells, order.preset))
