"""Runs the field benchmark: experts, protected models, cells; each kept, so that it goes on.

Killed, it loses the cell in work and nothing else. A suite that cannot be built is told about and
left out; the others go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unmergeable.auditing.audit_inputs import differing
from unmergeable.auditing.controls import Control, experts_learned, tasks_differ
from unmergeable.bench.field import artefact, index, kept, measure
from unmergeable.bench.field import resource_check as needs
from unmergeable.bench.field.columns import (
    CROWD_GROUP,
    PAIR_GROUP,
    Column,
    columns,
    method_rows,
    place,
)
from unmergeable.bench.field.defences import FieldDefence, chosen_defences
from unmergeable.bench.field.defended import Defended, defended
from unmergeable.bench.field.group import open_group
from unmergeable.bench.field.prepared_suite import Scene, open_scene
from unmergeable.bench.field.suite import Suite
from unmergeable.bench.field.suite_file import ENDINGS, read_suite
from unmergeable.bench.field.suites import SUITES
from unmergeable.bench.field.workers import processes, run_all
from unmergeable.errors import InputError, UnmergeableError

Say = Callable[[str], None]


@dataclass(frozen=True)
class Order:
    """What is asked for.

    Attributes:
        suites: which.
        defences: the rows; empty for each suite's own.
        cache: the cache folder.
        quick: the part to begin with.
        seeds: of training-time defences.
        only: names of attacks and merge methods; empty for all.
        workers: see [`computers_of`][unmergeable.executors.processes.computers_of].
        out: the folder whose files of cells take what was measured; None to keep it in the cache
            folder alone.
    """

    suites: Sequence[Suite]
    defences: Sequence[FieldDefence]
    cache: Path
    quick: bool = False
    seeds: int = 1
    only: Sequence[str] = ()
    workers: str = "1"
    out: Path | None = None


@dataclass
class Outcome:
    """What a run did.

    Attributes:
        measured: cells measured now.
        known: cells that were there.
        refused: why suites were left out, by name.
    """

    measured: int = 0
    known: int = 0
    refused: dict[str, str] = field(default_factory=dict)


def chosen_suites(names: Sequence[str] = ()) -> list[Suite]:
    """The suites of these names, or of these files; all of ours without names.

    Raises:
        InputError: an unknown name, two suites of one name, or a file that is wrong.
    """
    files = [name for name in names if name.endswith(ENDINGS)]
    if unknown := [name for name in names if name not in SUITES and name not in files]:
        raise InputError(
            f"no suite {unknown[0]!r}; there is {', '.join(SUITES)}, and whatever a file of yours "
            f"describes, whose name ends in {' or '.join(ENDINGS)}."
        )
    wanted = dict.fromkeys(names or SUITES)
    suites = [read_suite(name) if name in files else SUITES[name] for name in wanted]
    called = [suite.name for suite in suites]
    if twice := [name for name in called if called.count(name) > 1]:
        raise InputError(f"two suites are called {twice[0]!r}: give each a name of its own.")
    return suites


def run(order: Order, say: Say = lambda line: None) -> Outcome:
    """Measures what is asked for and not known yet.

    Raises:
        InputError: names that are unknown, or workers that are none.
    """
    outcome, count = Outcome(), processes(order.workers)
    for suite in order.suites:
        rows = order.defences or chosen_defences(suite.defences)
        plan = columns(suite, rows, quick=order.quick, seeds=order.seeds, only=order.only)
        try:
            needs.check(suite, order.cache, count)
            say(f"{suite.title}: base, data and experts")
            _train(suite, order)
            scene = open_scene(suite, order.cache)
            if order.out is not None:
                document = index.of_scene(scene, order.quick)
                kept.check_joins(
                    kept.path_of(order.out, kept.name_of(suite.name, order.quick)), document
                )
            if suite.own:
                _demand_learned(suite, plan, order, say)
            try:
                _suite(scene, plan, order, outcome, say)
            finally:  # what was measured before a run was stopped is kept, too
                _keep(suite, order)
        except UnmergeableError as error:
            outcome.refused[suite.name] = str(error)
            say(f"{suite.title}: left out. {error}")
    return outcome


def _keep(suite: Suite, order: Order) -> None:
    """Merges what the cache folder knows of a suite into the file beside the page."""
    known = kept.in_cache(order.cache, suite.name, order.quick)
    if order.out is not None and known is not None:
        kept.merge(kept.path_of(order.out, known.name), known)


@dataclass(frozen=True)
class Training:
    """An expert to be trained, for a worker."""

    suite: Suite
    task: str
    cache: Path


@dataclass(frozen=True)
class Protecting:
    """A defence to be applied, for a worker."""

    suite: Suite
    defence: FieldDefence
    seed: int
    cache: Path


def train_one(job: Training) -> str:
    """Trains an expert, or finds it; called in a worker."""
    base = job.suite.base(job.cache)
    job.suite[job.task].trained(base, job.cache)
    return job.task


def protect_one(job: Protecting) -> tuple[FieldDefence, int, Defended]:
    """Makes a protected model, or finds it; called in a worker."""
    made = defended(open_scene(job.suite, job.cache), job.defence, job.seed)
    return job.defence, job.seed, made


def _train(suite: Suite, order: Order) -> None:
    suite.base(order.cache)  # once, before workers ask for it at the same time
    names = dict.fromkeys((*suite.pair, *suite.crowd))
    jobs = [Training(suite, name, order.cache) for name in names]
    run_all(train_one, jobs, order.workers)


@dataclass(frozen=True)
class Proving:
    """Experts to be tried, for a worker."""

    suite: Suite
    group: str
    cache: Path


def prove_one(job: Proving) -> tuple[Control, list[str]]:
    """Whether a group's experts learned, and what may be the reason; called in a worker."""
    scene = open_scene(job.suite, job.cache)
    inputs = open_group(scene, job.group, scene.experts[scene.owner.name]).grid.inputs
    hints = [*inputs.distant.values()]
    for name, folder in zip(inputs.names, (inputs.original, *inputs.peers), strict=True):
        hints += [f"the {name}: {what}" for what in differing(inputs.base, folder)]
    learned, apart = experts_learned(inputs), tasks_differ(inputs)
    if learned.passed and not apart.passed:
        hints.append(f"it should hold that {apart.title}. Measured: {apart.figure}. {apart.remedy}")
    return learned, hints


def _demand_learned(suite: Suite, plan: Sequence[Column], order: Order, say: Say) -> None:
    """Stops before anything is protected or merged where an expert is not better than the base.

    Raises:
        InputError: says how each does its task, and what may be the reason.
    """
    groups = {column.group for column in plan}
    group = CROWD_GROUP if CROWD_GROUP in groups else PAIR_GROUP  # the pair is in the crowd

    def proved(found: tuple[Control, list[str]]) -> None:
        control, hints = found
        if control.passed:
            for line in (control.figure, *hints):
                say(f"{suite.title}: {line}")
            return
        further = "".join(f" And {hint}." for hint in hints)
        raise InputError(
            f"it should hold that {control.title}. Measured: {control.figure}. {control.remedy}"
            f"{further}"
        )

    run_all(prove_one, [Proving(suite, group, order.cache)], order.workers, proved)


def _suite(scene: Scene, plan: Sequence[Column], order: Order, outcome: Outcome, say: Say) -> None:
    wanted = {(column.defence.name, column.seed): column.defence for column in plan}
    jobs = [
        Protecting(scene.suite, defence, seed, order.cache) for (_, seed), defence in wanted.items()
    ]
    made: dict[tuple[str, int], Defended] = {}

    def protected(found: tuple[FieldDefence, int, Defended]) -> None:
        defence, seed, one = found
        made[defence.name, seed] = one
        told = f"refused: {one.refused}" if one.refused else f"{one.seconds:.0f} s"
        say(f"{scene.suite.title}: {defence.title} ({told})")

    run_all(protect_one, jobs, order.workers, protected)
    cells = [(column, _cells(scene, column, made)) for column in plan]
    named = [(wanted[at], at[1], one) for at, one in made.items()]
    index.write(scene, named, _places(scene, made, order), order.quick)
    todo, known = [], 0
    for column, found in cells:
        missing = [
            (method, inputs)
            for method, inputs in found
            if artefact.read(order.cache, artefact.key_of(inputs)) is None
        ]
        known += len(found) - len(missing)
        released = made[column.defence.name, column.seed].folder
        if missing and released is not None:
            todo.append(measure.Job(scene.suite, order.cache, column, released, tuple(missing)))
    total, done, start = sum(len(job.cells) for job in todo), 0, time.perf_counter()
    outcome.known += known
    say(f"{scene.suite.title}: {known} cells are known, {total} to measure")

    def measured(found: tuple[str, list[str]]) -> None:
        nonlocal done
        title, keys_done = found
        done += len(keys_done)
        outcome.measured += len(keys_done)
        left = (time.perf_counter() - start) / max(done, 1) * (total - done)
        say(f"[{done}/{total}, {left / 60:.0f} min left] {title}")

    run_all(measure_one, todo, order.workers, measured)


def measure_one(job: measure.Job) -> tuple[str, list[str]]:
    """Measures a column; called in a worker."""
    return job.column.title, measure.run(job)


def _places(
    scene: Scene, made: Mapping[tuple[str, int], Defended], order: Order
) -> dict[str, str | None]:
    """All places of the grid, whatever part of it is run now, with the keys that are known."""
    rows = {
        defence.name: defence
        for defence in (*chosen_defences(scene.suite.defences), *order.defences)
    }
    found: dict[str, str | None] = {}
    for c in columns(scene.suite, [*rows.values()], quick=order.quick, seeds=order.seeds):
        found |= dict.fromkeys(c.places)
        if (c.defence.name, c.seed) in made:
            for method, inputs in _cells(scene, c, made):
                where = place(c.group, c.defence.name, c.seed, c.attack, method)
                found[where] = artefact.key_of(inputs)
    return found


def _cells(
    scene: Scene, column: Column, made: Mapping[tuple[str, int], Defended]
) -> list[tuple[str, dict[str, Any]]]:
    """The cells of a column with their inputs; none where the defence refused."""
    released = made[column.defence.name, column.seed].folder
    if released is None:
        return []
    rows = {row.name: row for row in method_rows(column.methods, column.quick)}
    return [
        (method, artefact.inputs(scene, column, released, rows.get(method)))
        for method in column.methods or ("",)
    ]
