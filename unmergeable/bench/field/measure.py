"""Measures the cells of a column and writes each to disk as soon as it is known."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from unmergeable.attacks.rebuilt import is_rebuilt
from unmergeable.auditing import controls
from unmergeable.auditing.candidates import code_digest
from unmergeable.auditing.cells import Cell, Measurement
from unmergeable.auditing.ensemble import Row
from unmergeable.auditing.grid import FAULTS, failed
from unmergeable.bench.field import artefact
from unmergeable.bench.field.columns import ALONE, CEILINGS, CONTROLS, Column, method_rows
from unmergeable.bench.field.group import Group, open_group
from unmergeable.bench.field.prepared_suite import open_scene
from unmergeable.bench.field.suite import Suite
from unmergeable.checkpoint.folder import open_folder
from unmergeable.errors import InputError, UnmergeableError
from unmergeable.evaluation import store
from unmergeable.machine import busy, cores
from unmergeable.merging.method import Merged
from unmergeable.models.model_runner import ModelRunner

REFUSED = (
    "the defence changed the architecture: merge tools refuse the folder beside its base, before "
    "the attack has made it a stock model"
)


@dataclass(frozen=True)
class Job:
    """What a worker is handed: the missing cells of a column.

    Attributes:
        suite: whose.
        cache: the cache folder.
        column: which attack on which defence.
        released: the protected model's folder.
        cells: per cell to measure, the merge method (empty where there is none) and its inputs.
    """

    suite: Suite
    cache: Path
    column: Column
    released: Path
    cells: tuple[tuple[str, Mapping[str, Any]], ...]


def run(job: Job) -> list[str]:
    """Measures a job's cells, and returns their keys; a failure is a cell with its reason."""
    group = open_group(open_scene(job.suite, job.cache), job.column.group, job.released)
    rows = {row.name: row for row in method_rows(job.column.methods, job.column.quick)}
    for method, inputs in job.cells:
        key = artefact.key_of(inputs)
        if artefact.read(job.cache, key) is None:
            load, wall, cpu = busy(), time.perf_counter(), time.process_time()
            try:
                found = _measured(group, job, rows.get(method))
            except (UnmergeableError, *FAULTS) as error:
                found = artefact.content(failed(error), group.names)
            about = {
                "key": key,
                "inputs": inputs,
                "busy": round(load, 2),
                "took": {
                    "wall": round(time.perf_counter() - wall, 3),
                    "cpu": round(time.process_time() - cpu, 3),
                },
                "software": software(),
                "machine": f"{platform.machine()}, {cores()} processors",
            }
            found = {**about, **found}
            store.keep(artefact.path_of(job.cache, key), found)
    return [artefact.key_of(inputs) for _, inputs in job.cells]


def software() -> dict[str, str]:
    """The versions that a figure came from, and the hash of our own code."""
    names = ("torch", "transformers", "mergekit", "numpy", "scipy")
    return {**{name: version(name) for name in names}, "unmergeable": code_digest()}


def _measured(group: Group, job: Job, row: Row | None) -> dict[str, Any]:
    attack = job.column.attack
    if attack == CONTROLS:
        return _controls(group)
    if attack == ALONE:
        return _alone(group, job.released)
    if attack == "none" and is_rebuilt(open_folder(job.released)):
        raise InputError(REFUSED)
    found = group.measure(attack, row)
    if attack in CEILINGS or len(found) > 1:
        return _way(group, found)
    return artefact.content(found[-1], group.names)


def _controls(group: Group) -> dict[str, Any]:
    """How the base and the experts do every task, and whether a merge can say anything."""
    inputs = group.grid.inputs
    checks: list[Callable[[Any], controls.Control]] = [
        controls.experts_learned,
        controls.tasks_differ,
        controls.tool_aligns,
    ]
    return {
        **artefact.content(Measurement(), group.names),
        "singles": {
            name: dict(zip(group.names, map(artefact.pack, scores), strict=True))
            for name, scores in inputs.singles.items()
        },
        "controls": [check(inputs).document() for check in checks],
    }


def _alone(group: Group, released: Path) -> dict[str, Any]:
    """What the released model alone makes of every task, run by its own code if it has any."""
    if is_rebuilt(open_folder(released)):
        runner = ModelRunner.of(released)
        scores = [task.exam(runner, task.test)() for task in group.grid.inputs.tasks.tasks]
    else:
        model = group.grid.start(Cell("protected", None)).model
        about, evaluator = {"weights": model.identity}, group.grid.inputs.evaluator
        scores = evaluator.scores(about, lambda: Merged(model.state), "test")
        evaluator.forget()
    return artefact.content(Measurement(scores=scores), group.names)


def _way(group: Group, found: Sequence[Measurement]) -> dict[str, Any]:
    """Of an attack that is told of as it goes: every point of the way, and the best of them."""
    measured = [one for one in found if not one.reason]
    if not measured:
        return artefact.content(found[-1], group.names)

    def worth(one: Measurement) -> float:
        value = group.grid.inputs.value(one.scores)
        return value.value if value else 0.0

    best = max(measured, key=worth)
    points = [{"price": one.price.document(), "value": worth(one)} for one in measured]
    return {**artefact.content(replace(best, tried=len(measured)), group.names), "points": points}
