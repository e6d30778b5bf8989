"""The audit: what a merge of a protected model is still worth, and what the cheapest theft costs.

Positive controls come first. Then every merge method on the open expert, on the model as released
and on the aligned one; then the attacks beyond alignment, cheapest first; then the two ceilings
that open weights always leave. Everything is in memory; whatever was measured is kept by content.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from unmergeable.attacks.align import AlignedTensors, align_tensors
from unmergeable.attacks.alignment.methods import METHODS as ALIGNMENTS
from unmergeable.attacks.attack import Attack
from unmergeable.attacks.ladder import CEILINGS, LADDER, attacks
from unmergeable.auditing import baselines, controls, document
from unmergeable.auditing.audit_inputs import Setting, has_lock, load, offloaded, prepare
from unmergeable.auditing.candidates import Model
from unmergeable.auditing.cells import Cell, Cells, Price, failed, guarded
from unmergeable.auditing.controls import Control
from unmergeable.auditing.curves import Curves
from unmergeable.auditing.ensemble import FINE, PRESETS, Preset, Row, rows
from unmergeable.auditing.facts import ALIGNED, ALIGNED_CURVE, OPEN_CURVE, ORIGINAL
from unmergeable.auditing.fitting import fitted, tamed
from unmergeable.auditing.progress import Progress
from unmergeable.auditing.report.audit_report import AuditReport
from unmergeable.auditing.scenarios import stealer as stealing
from unmergeable.auditing.search import kept
from unmergeable.errors import InputError, clip
from unmergeable.evaluation import store
from unmergeable.evaluation.task_file import TaskFile, read_tasks
from unmergeable.keys.key import Key, load_key
from unmergeable.models.offloaded_state import OffloadedState
from unmergeable.models.weights import Weights

ALIGN = "align"
# Columns of the matrix, whose merges attacks start from: the released model aligned, the expert.
_RELEASED, _OPEN = ("protected", ALIGN), ("open", "none")
_REASON = 200  # characters of why an attack failed, in a sentence
_VARIANTS = 8  # of an attack, guessed for the remaining time


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
    command: str = "",
    progress: Progress | None = None,
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
        command: what was typed, for the report.
        progress: is told how far the audit is.

    Returns:
        The report: its verdict and cells, as an object that saves itself.

    Raises:
        ControlError: a positive control failed, so that nothing can be said.
        InputError: models, tasks or settings that do not fit together.
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
    found = tasks if isinstance(tasks, TaskFile) else read_tasks(tasks)
    folder = store.root(cache)
    started, clock = datetime.now(UTC), time.perf_counter()
    progress = progress or Progress()
    setting = prepare(protected, base, original, peers, found, folder, seed, progress)
    run = _Run(setting, PRESETS[preset], folder / "cells", progress)
    run.go(load_key(key) if isinstance(key, str | Path) else key)
    run.steal(stealer)
    about = {
        "command": command or " ".join(sys.argv),
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - clock, 1),
        "preset": preset,
    }
    return AuditReport(document.build(run.findings(), about))


@dataclass(eq=False)
class _Run:
    """One audit as it goes."""

    setting: Setting
    preset: Preset
    folder: Path
    progress: Progress
    entries: list[document.Entry] = field(default_factory=list)
    controls: list[Control] = field(default_factory=list)
    attacks: dict[str, document.AttackEntry] = field(default_factory=dict)
    trained: dict[str, baselines.Trained] = field(default_factory=dict)
    ceilings: dict[Attack, list[Cell]] = field(default_factory=dict)
    distances: dict[str, float] = field(default_factory=dict)
    suspicious: dict[str, str] = field(default_factory=dict)
    scenarios: list[dict[str, Any]] = field(default_factory=list)
    not_run: list[document.NotRun] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rows = rows(self.preset)
        self.core = [row for row in self.rows if row.name in self.preset.core]
        self.few = [row.few() for row in self.core]
        self.cells = Cells(
            self.setting.evaluator,
            self.setting.candidates,
            self.setting.reference,
            self.folder,
            self.progress.step,
        )
        self.curves = Curves(self.setting, self.preset.line)
        if not self.preset.complete:
            self._left_out(
                "a part of the ensemble",
                f"the preset {self.preset.name!r} leaves it out",
                "run the standard ensemble, without --quick",
            )
        for row in self.rows:
            if not row.routed and (reason := self._unsuited(row)):
                need = "give texts, and training items for every peer"
                self._left_out(f"the merge method {row.title}", reason, need)
        self.ladder = self._chosen()
        self.setting.evaluator.forget()  # synthetic inputs are tried on the base

    def go(self, key: Key | None) -> None:
        """Runs everything."""
        setting = self.setting
        self.distances.update(setting.distances)
        self.suspicious.update(setting.strangers)
        self._demand(controls.experts_learned(setting))
        self._demand(controls.tasks_differ(setting))
        self._demand(controls.release_works(setting))
        self._plan()
        self._say("checking that alignment undoes a lock", 1)
        self._demand(controls.tool_aligns(setting))
        if key is not None:
            self._demand(controls.unlocks(setting, key))
        else:
            self._left_out(
                "the control that the key unlocks",
                "no key was given (--key)",
                "give the owner's key with --key" if has_lock(setting.protected) else "",
            )
        self.progress.finish()
        self._note("none", "as released", "Merges the model as it is published.", "none")

        model = load(setting, setting.original)
        self._column("open", "none", model, self.rows, Price())
        best = document.best_open(setting, self.rows, self.entries)
        name, value = ("none", 0.0) if best is None else (best[0].row, best[1].value)
        self._demand(controls.open_merges(value, name))
        self._curve(OPEN_CURVE, "unprotected", model)
        del model

        model = load(setting, setting.protected)
        self._column("protected", "none", model, self.rows, Price())
        self._curve("protected", "as released", model)
        self._ceilings(model)
        del model

        what = "Aligns the model to its public base."
        found = self._align("full", ALIGN, "alignment", what, self.rows)
        if found is None:
            self._nowhere_to_start()
        else:
            aligned, model, price, unknown = found
            if aligned.suspicious:
                self.suspicious[ALIGNED] = self._resisting(aligned.after)
            self._column("protected", ALIGN, model, self.rows, price)
            self._curve(ALIGNED_CURVE, "aligned", model, unknown)
            self._beyond(model, price)
            del model, found

        for method in self.preset.aligns:
            name, what = f"{ALIGN}:{method}", ALIGNMENTS[method].sentence
            found = self._align(method, name, method, what, self.few)
            if found is not None:
                _, model, price, _ = found
                self._column("protected", name, model, self.few, price)
                del model, found

    def steal(self, wanted: bool) -> None:
        """Plays Merger-as-a-Stealer, or says why not; its failure costs nothing else."""
        setting, runner = self.setting, self.setting.candidates.runner
        reason = stealing.unsuited(runner) if wanted else "asked for by --stealer"
        if not reason:
            self.progress.plan(stealing.STEPS)
            self._say(stealing.TITLE, stealing.STEPS)
            try:
                played = stealing.stealer(
                    setting.base,
                    setting.original,
                    runner=runner,
                    cache=self.folder.parent,
                    seed=setting.seed,
                    advance=self.progress.step,
                )
                self.scenarios.append(played)
            except InputError as error:
                reason = str(error)
            self.progress.finish()
        if reason:
            self._left_out(f"the scenario {stealing.TITLE}", reason)

    def findings(self) -> document.Findings:
        """All that the report is made of."""
        return document.Findings(
            setting=self.setting,
            rows=self.rows,
            entries=self.entries,
            controls=self.controls,
            attacks=self.attacks,
            trained=self.trained,
            ceilings=self.ceilings,
            curves=self.curves.document(),
            distances=self.distances,
            suspicious=self.suspicious,
            scenarios=self.scenarios,
            not_run=self.not_run,
        )

    def _demand(self, control: Control) -> None:
        self.controls.append(controls.demand(control, self.setting))

    def _column(
        self, subject: str, attack: str, model: Model, chosen: Sequence[Row], price: Price
    ) -> None:
        """Every chosen merge method on one subject."""
        for row in chosen:
            self._say(f"{row.title}, {'open' if subject == 'open' else attack}", self._steps(row))
            if reason := self._unsuited(row):
                cell = Cell(reason=reason)
                self.entries.append(document.Entry(subject, attack, row.name, cell, skipped=True))
            else:
                cell = self.cells.merge(row, model, price)
                self.entries.append(document.Entry(subject, attack, row.name, cell))
            self.progress.finish()

    def _beyond(self, model: Model, price: Price) -> None:
        """Every attack of the ladder, on the aligned model."""
        for attack in self.ladder:
            self._note(attack.name, attack.title, attack.what, attack.stage, price)
            for row in self._tried_with(attack):
                self._say(f"{attack.title}, {row.title}", self._attack_steps(attack, row))
                found = self._attacked(attack, row, model, price, _RELEASED)
                own = attack not in LADDER and self._fails_anyway(attack, row, found)
                for cell in found:
                    skipped = bool(own and cell.reason)
                    self.entries.append(
                        document.Entry("protected", attack.name, row.name, cell, skipped)
                    )
                self.progress.finish()

    def _attacked(
        self, attack: Attack, row: Row, model: Model, price: Price, column: tuple[str, str]
    ) -> list[Cell]:
        """What an attack of the ladder makes of a model, whose merges stand in a column."""
        thief = self.setting.thief
        if attack.before:
            return [self.cells.before(attack, thief, row, model, price)]
        try:
            start, spent = self._start(row, model, column)
            found = self.cells.snapshots(attack, thief, model, start, spent)
            if column == _RELEASED:
                self._compare(attack, found, model, (start, spent), row)
            return found
        except InputError as error:
            return [failed(error)]

    def _fails_anyway(self, attack: Attack, row: Row, found: Sequence[Cell]) -> bool:
        """Whether a package's attack, failed on the release, fails on the open expert, too.

        Then the failure is its own and says nothing of the release.
        """
        if not any(cell.reason for cell in found):
            return False
        model = load(self.setting, self.setting.original)
        again = self._attacked(attack, row, model, Price(), _OPEN)
        reason = next((cell.reason for cell in again if cell.reason), "")
        if reason:
            why = f"it fails on the open expert, too: {clip(reason, _REASON)}"
            self._left_out(f"{attack.title}, with {row.title},", why)
        return bool(reason)

    def _ceilings(self, released: Model) -> None:
        """What open weights always allow, from the model as released."""
        chosen = [attack for attack in CEILINGS if self.preset.tries(attack.name)]
        if len(chosen) < len(CEILINGS):
            what = "some of the ceilings" if chosen else "the two ceilings"
            self._left_out(what, f"the preset {self.preset.name!r} leaves them out")
        for attack in chosen:
            if lacking := self._lacking(attack):
                self._left_out(f"the ceiling {attack.title}", lacking[0])
                continue
            self._note(attack.name, attack.title, attack.what, attack.stage)
            self._say(attack.title, _VARIANTS)
            self.ceilings[attack] = self.cells.snapshots(
                attack, self.setting.thief, released, None, Price()
            )
            self._compare(attack, self.ceilings[attack], released, (None, Price()))
            self.progress.finish()

    def _compare(
        self,
        attack: Attack,
        found: Sequence[Cell],
        model: Model,
        start: baselines.Start,
        row: Row | None = None,
    ) -> None:
        """The baselines of an attack that trains."""

        def opened() -> tuple[Model, baselines.Start]:
            own = load(self.setting, self.setting.original)
            return own, (None, Price()) if row is None else self._start(row, own, _OPEN)

        if not attack.sweeps:
            return
        told = baselines.compared(
            self.cells,
            attack,
            self.setting.thief,
            found,
            self.setting.value,
            opened,
            (model, start),
        )
        if told is not None:
            self.trained[attack.name] = told

    def _start(self, row: Row, model: Model, column: tuple[str, str]) -> tuple[Model, Price]:
        """The best merge of a model by a method, which attacks after merging start at."""
        places = ((e.cell, (e.subject, e.attack, e.row)) for e in self.entries)
        cell = next(cell for cell, place in places if place == (*column, row.name))
        if cell.reason:
            raise InputError(f"{row.title} has no merge to start from: {cell.reason}")
        chosen = self.setting.candidates.again(row, model, cell.label)
        return Model(OffloadedState(chosen.make().state), store.digest(chosen.about)), cell.price

    def _align(
        self, method: str, name: str, title: str, what: str, chosen: Sequence[Row]
    ) -> tuple[AlignedTensors, Model, Price, Mapping[str, float]] | None:
        """The released model aligned in memory, what that took, and what is not known of it.

        Whatever else a release makes the fit raise, alignment undid a lock of this audit's own just
        before: then every merge after it is a cell with the reason.

        Args:
            method: how to align.
            name: of the attack.
            title: likewise.
            what: likewise.
            chosen: the merge methods that are tried after it.
        """
        self._say(f"aligning ({method})", 1)
        try:
            aligned = align_tensors(self.setting.attacked, self.setting.base, method=method)
        except OSError:
            raise
        except Exception as error:
            self.progress.finish()
            self._note(name, title, what, "align")
            self._failed(name, chosen, failed(error))
            return None
        weights = Weights.of_bytes(self.setting.protected, aligned.tensors)
        aligned.tensors.clear()
        base = self.setting.candidates.base.state
        weights, unknown = tamed(fitted(weights, base), base)
        if name == ALIGN:
            hidden = math.sqrt(sum(unknown.values())) / Weights(base).norm
            self.distances[ALIGNED] = math.hypot(aligned.after, hidden)
        self.progress.finish()
        model = offloaded(weights)
        about = {"align": method, "of": self.setting.digests["protected"]}
        price = Price(seconds=self.cells.seconds_kept(about, model, aligned.seconds))
        self._note(name, title, what, "align", price)
        return aligned, model, price, unknown

    def _resisting(self, after: float) -> str:
        """What it means that the aligned release is too far from the base: a wrong base is not it.

        Args:
            after: how far.
        """
        expert = self.setting.distances[ORIGINAL]
        told = f"after alignment the release is {after:.0%} of the base's norm away from it"
        if ORIGINAL in self.suspicious:
            return f"{told}, as the original itself is ({expert:.0%}): the base is the wrong one"
        return (
            f"{told}, and the original {expert:.0%}: the base is the right one, and the release is "
            "moved by something that alignment does not undo, or is of another model"
        )

    def _failed(self, attack: str, chosen: Sequence[Row], cell: Cell) -> None:
        """Cells without a figure, of an attack that no merge could come after."""
        for row in chosen:
            self.entries.append(document.Entry("protected", attack, row.name, cell))

    def _nowhere_to_start(self) -> None:
        """Every attack of the ladder fails where alignment, which they start at, does."""
        for attack in self.ladder:
            self._note(attack.name, attack.title, attack.what, attack.stage)
            reason = Cell(reason="alignment, where this attack starts, failed")
            self._failed(attack.name, self._tried_with(attack), reason)

    def _curve(
        self, name: str, title: str, model: Model, unknown: Mapping[str, float] | None = None
    ) -> None:
        self._say(f"the straight line to the model, {title}", self.preset.line)
        self.curves.add(name, title, model, self.progress.step, unknown)
        self.progress.finish()

    def _chosen(self) -> list[Attack]:
        """The attacks beyond alignment that this audit has what it takes to run."""
        known = [
            attack if attack in LADDER else guarded(attack)
            for attack in attacks().values()
            if attack not in CEILINGS
        ]
        chosen = []
        for attack in known:
            if not self.preset.tries(attack.name):
                self._left_out(attack.title, f"the preset {self.preset.name!r} leaves it out")
            elif lacking := self._lacking(attack):
                self._left_out(attack.title, *lacking)
            else:
                chosen.append(attack)
        return chosen

    def _lacking(self, attack: Attack) -> tuple[str, str] | None:
        """Why an attack cannot run here, and what would make it; None if it can."""
        thief = self.setting.thief
        if unsuited := attack.suits(thief):
            return f"not applicable: {unsuited}", ""
        if attack.texts and attack.texts not in thief.texts:
            return f"the task file has no {attack.texts} texts", f"give texts: {attack.texts}"
        if attack.labels and not all(corpus.batches for corpus in thief.labelled):
            return (
                "the task file has no training items for every peer",
                "give training items for every peer",
            )
        return None

    def _left_out(self, what: str, why: str, need: str = "") -> None:
        self.not_run.append(document.NotRun(what, why, need))

    def _unsuited(self, row: Row) -> str:
        """Why a merge method cannot run here; empty if it can."""
        needs = row.own.needs if row.own else frozenset()
        if needs and not self.setting.candidates.corpora:
            return (
                "it needs inputs of every model's domain: give the task file unlabelled texts, and "
                "training items for every peer"
            )
        return ""

    def _plan(self) -> None:
        """How many evaluations are to come, roughly."""
        line = self.preset.line
        steps = sum(map(self._steps, self.rows))
        alone = sum(map(self._steps, self.few))
        self.progress.plan(3 * (steps + line) + 2)
        for attack in self.ladder:
            tried = self._tried_with(attack)
            self.progress.plan(sum(self._attack_steps(attack, row) for row in tried))
        self.progress.plan(len(self.preset.aligns) * (alone + 1))
        ceilings = sum(self.preset.tries(attack.name) for attack in CEILINGS)
        self.progress.plan(_VARIANTS * ceilings)

    def _steps(self, row: Row) -> int:
        """How many evaluations a cell takes, roughly."""
        if self._unsuited(row):
            return 0
        group = row.count if len(row.scales) == 1 else len(row.scales)
        each = group + kept(group)
        return row.count // group * each + (len(FINE) if row.wide else 0) + 1

    def _tried_with(self, attack: Attack) -> list[Row]:
        """The merge methods that an attack is tried with: for one that trains, the first."""
        return self.few if attack.before else self.few[:1]

    def _attack_steps(self, attack: Attack, row: Row) -> int:
        """How many evaluations an attack takes with a merge method, roughly."""
        return _VARIANTS * (self._steps(row) if attack.before else 1)

    def _say(self, what: str, steps: int) -> None:
        self.progress.start(what, steps)

    def _note(
        self, name: str, title: str, what: str, stage: str, price: Price | None = None
    ) -> None:
        self.attacks[name] = document.AttackEntry(name, title, what, stage, price or Price())
