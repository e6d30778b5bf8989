"""The audit: what a merge of a protected model is still worth, and what the cheapest theft costs.

Positive controls come first. Then every merge method on the open expert, on the model as released
and on the aligned one; then the attacks beyond alignment, cheapest first; then the two ceilings
that open weights always leave. Everything is in memory; whatever was measured is kept by content.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

from unmergeable.attacks.ladder import CEILINGS, LADDER
from unmergeable.auditing import baselines, controls, document
from unmergeable.auditing.audit_inputs import AuditInputs, has_lock, prepare
from unmergeable.auditing.cells import FULL, Cell, Measurement, Price, Subject
from unmergeable.auditing.controls import Control
from unmergeable.auditing.curves import DRAWN, Curves
from unmergeable.auditing.ensemble import PRESETS, Preset, rows
from unmergeable.auditing.facts import ALIGNED, ORIGINAL
from unmergeable.auditing.grid import CELLS, AlignmentError, Grid, Start
from unmergeable.auditing.plan import NotRun, plan, steps
from unmergeable.auditing.planned_steps import PlannedSteps
from unmergeable.auditing.report.audit_report import AuditReport
from unmergeable.auditing.scenarios import stealer as stealing
from unmergeable.auditing.workers import Workers
from unmergeable.errors import InputError, clip
from unmergeable.evaluation import store
from unmergeable.evaluation.task_file import TaskFile, read_tasks
from unmergeable.executors.executor import SERIAL
from unmergeable.executors.processes import computers_of
from unmergeable.keys.key import Key, load_key
from unmergeable.models.device import running_on
from unmergeable.progress import Progress, silent

_REASON = 200  # characters of why an attack failed, in a sentence


def audit(
    protected: str | Path,
    *,
    base: str | Path,
    original: str | Path,
    peers: Sequence[str | Path],
    tasks: str | Path | TaskFile,
    preset: str = "standard",
    key: Key | str | Path | None = None,
    cache: str | Path | None = None,
    seed: int = 0,
    stealer: bool = False,
    device: str = "auto",
    workers: int | str = 1,
    command: str = "",
    progress: Progress = silent,
) -> AuditReport:
    """Audits a protected model.

    Args:
        protected: the model as released.
        base: the public base.
        original: the unprotected expert, which only its owner has.
        peers: the thief's own experts, fine-tuned from the same base.
        tasks: the task file, or what it holds.
        preset: which part of the ensemble to run: a name in `ensemble.PRESETS`.
        key: the owner's, for the control that it gives the original back.
        cache: where measurements are kept; see [`root`][unmergeable.evaluation.store.root].
        seed: of merges, attacks and bootstrap draws.
        stealer: whether to play the Merger-as-a-Stealer scenario, which trains two models.
        device: where models are run and merges made: "auto" (the first accelerator, else the CPU),
            "cpu", "cuda", "cuda:N" or "mps".
        workers: a number of processes that measure, of which 1 means this one; or "ray" or
            ray://HOST:PORT for a Ray cluster whose machines see models, data and cache under the
            same paths. The report is the same, but for what a clock says.
        command: what was typed, for the report.
        progress: is told how far it is.

    Returns:
        The report: its verdict and cells, as an object that saves itself.

    Raises:
        ClusterError: processes or machines were lost, or do not share what they must.
        ControlError: a positive control failed, so that nothing can be said.
        InputError: models, tasks or settings that do not fit together.
        MissingExtraError: ray is not installed.
        UnsupportedError: an architecture that nobody declared.

    Examples:
        >>> report = unmergeable.audit(
        ...     "locked",
        ...     base="base",
        ...     original="expert",
        ...     peers=["peer"],
        ...     tasks="tasks.yaml",
        ...     preset="demo",
        ... )
        >>> report.verdict["answer"]
        'broken'
    """
    if preset not in PRESETS:
        raise InputError(f"no preset {preset!r}; there is {', '.join(PRESETS)}.")
    alone = computers_of(str(workers)) == SERIAL
    found = tasks if isinstance(tasks, TaskFile) else read_tasks(tasks)
    folder = store.root(cache)
    started, clock = datetime.now(UTC), time.perf_counter()
    planned = PlannedSteps(progress)
    with running_on(device):
        inputs = prepare(protected, base, original, peers, found, folder, seed, planned)
        grid = Grid(inputs, folder / CELLS, planned.step)
        findings = document.Findings(inputs, rows(PRESETS[preset]))
        findings.distances.update(inputs.distances)
        findings.suspicious.update(inputs.distant)
        ahead = None if alone else Workers(str(workers), inputs, PRESETS[preset], folder)
        run = _Audit(inputs, PRESETS[preset], grid, planned, findings, ahead)
        run.go(load_key(key) if isinstance(key, str | Path) else key)
        run.steal(stealer, folder)
    about = {
        "command": command or " ".join(sys.argv),
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - clock, 1),
        "preset": preset,
    }
    return AuditReport(document.build(findings, about))


@dataclass(eq=False)
class _Audit:
    """An audit as it goes."""

    inputs: AuditInputs
    preset: Preset
    grid: Grid
    planned: PlannedSteps
    findings: document.Findings
    workers: Workers | None = None

    def go(self, key: Key | None) -> None:
        """Runs everything."""
        inputs, findings = self.inputs, self.findings
        self._demand(controls.experts_learned(inputs))
        self._demand(controls.tasks_differ(inputs))
        self._demand(controls.release_works(inputs))
        cells, left = plan(inputs, self.preset)
        inputs.evaluator.forget()  # synthetic inputs were tried on the base
        findings.not_run.extend(left)
        self.planned.plan(sum(steps(inputs, cell) for cell in cells))
        self.planned.plan(3 * self.preset.line + len(self.preset.aligns) + 2)
        self.planned.start("checking that alignment undoes a lock", 1)
        self._demand(controls.tool_aligns(inputs))
        if key is not None:
            self._demand(controls.unlocks(inputs, key))
        else:
            self._left_out(
                "the control that the key unlocks",
                "no key was given (--key)",
                "give the owner's key with --key" if has_lock(inputs.protected) else "",
            )
        self.planned.finish()
        curves = Curves(inputs, self.preset.line)
        groups = groupby(cells, lambda cell: (cell.subject, cell.align))
        opened, *others = [list(group) for _, group in groups]
        self._ahead(opened, others, lambda: self._group(opened, curves))
        for group in others:
            self._group(group, curves)
        findings.curves = curves.document()

    def _ahead(
        self, opened: list[Cell], others: list[list[Cell]], between: Callable[[], None]
    ) -> None:
        """Has cells measured by workers, if there are any, to be looked up here.

        Args:
            opened: those of the open expert.
            others: the other groups of cells.
            between: goes through those of the open expert.
        """
        if self.workers is None:
            between()
            return
        aligned = {}
        for align in dict.fromkeys(group[0].align for group in others if group[0].align):
            # Now, while nothing else runs: its price is in seconds.
            self.planned.start(f"aligning ({align})", 0)
            with suppress(AlignmentError):
                aligned[align] = self.grid.start(Cell("protected", None, align)).model.identity
        rest = [cell for group in others for cell in group]
        self.workers.measure(opened, rest, aligned, self.planned, between)

    def _group(self, cells: Sequence[Cell], curves: Curves) -> None:
        """Measures the cells of one model under one alignment, or looks them up."""
        subject, align = cells[0].subject, cells[0].align
        start = self._start(subject, align)
        for cell in cells:
            self._measure(cell, start.price if start is not None else Price())
        if subject == "open":
            best = document.best_open(self.findings)
            name, value = ("none", 0.0) if best is None else (best[0].row.name, best[1].value)
            self._demand(controls.open_merges(value, name))
        if start is not None and (subject, align) in DRAWN:
            name, title = DRAWN[subject, align]
            what = f"the straight line to the model, {title}"
            self.planned.start(what, self._steps(self.preset.line))
            curves.add(name, title, start, self.planned.step)
            self.planned.finish()

    def _steps(self, count: int) -> int:
        """How many of a part's steps are taken here, and not by workers."""
        return count if self.workers is None else 0

    def steal(self, wanted: bool, cache: Path) -> None:
        """Plays Merger-as-a-Stealer, or says why not; its failure costs nothing else."""
        inputs, runner = self.inputs, self.inputs.candidates.runner
        reason = stealing.unsuited(runner) if wanted else "asked for by --stealer"
        if not reason:
            self.planned.plan(stealing.STEPS)
            self.planned.start(stealing.TITLE, stealing.STEPS)
            try:
                played = stealing.stealer(
                    inputs.base,
                    inputs.original,
                    runner=runner,
                    cache=cache,
                    seed=inputs.seed,
                    advance=self.planned.step,
                )
                self.findings.scenarios.append(played)
            except InputError as error:
                reason = str(error)
            self.planned.finish()
        if reason:
            self._left_out(f"the scenario {stealing.TITLE}", reason)

    def _start(self, subject: Subject, align: str) -> Start | None:
        """The model that a group of cells starts from; None if it could not be aligned."""
        if align:
            self.planned.start(f"aligning ({align})", 1)
        try:
            start = self.grid.start(Cell(subject, None, align))
        except AlignmentError:
            start = None
        if align == FULL and start is not None:
            self.findings.distances[ALIGNED] = start.distance
            if start.suspicious:
                self.findings.suspicious[ALIGNED] = self._resisting(start.distance)
        if align:
            self.planned.finish()
        return start

    def _resisting(self, after: float) -> str:
        """What it means that the aligned release is too far from the base: a wrong base is not it.

        Args:
            after: how far.
        """
        expert = self.inputs.distances[ORIGINAL]
        told = f"after alignment the release is {after:.0%} of the base's norm away from it"
        if ORIGINAL in self.inputs.distant:
            return f"{told}, as the original itself is ({expert:.0%}): the base is the wrong one"
        return (
            f"{told}, and the original {expert:.0%}: the base is the right one, and the release is "
            "moved by something that alignment does not undo, or is of another model"
        )

    def _measure(self, cell: Cell, price: Price) -> None:
        """A cell with all that the report tells of it."""
        attack, findings = cell.attack, self.findings
        if cell.subject == "protected":
            findings.attacks[cell.column] = document.AttackEntry.of(cell, price)
        self.planned.start(cell.title, self._steps(steps(self.inputs, cell)))
        found = self.grid.measure(cell)
        if attack is not None and attack not in (*LADDER, *CEILINGS):
            found = self._own_failure(cell, found)
        if cell.method is None:
            findings.ceilings[cell] = found
        else:
            findings.entries.extend(document.Entry(cell, one) for one in found)
        if attack is not None and attack.sweeps:
            told = baselines.compared(self.grid, cell, found)
            if told is not None:
                findings.trained[attack.name] = told
        self.planned.finish()

    def _own_failure(self, cell: Cell, found: list[Measurement]) -> list[Measurement]:
        """What a package's attack measured, skipped where it fails on the open expert, too.

        Then the failure is its own and says nothing of the release.
        """
        if not any(one.reason for one in found):
            return found
        again = self.grid.measure(replace(cell, subject="open", align=""))
        reason = next((one.reason for one in again if one.reason), "")
        if not reason:
            return found
        assert cell.attack is not None and cell.method is not None
        what = f"{cell.attack.title}, with {cell.method.title},"
        self._left_out(what, f"it fails on the open expert, too: {clip(reason, _REASON)}")
        return [replace(one, skipped=bool(one.reason)) for one in found]

    def _demand(self, control: Control) -> None:
        self.findings.controls.append(controls.demand(control, self.inputs))

    def _left_out(self, what: str, why: str, need: str = "") -> None:
        self.findings.not_run.append(NotRun(what, why, need))
