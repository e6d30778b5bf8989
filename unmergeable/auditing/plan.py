"""From the inputs of an audit and a preset to the cells that are measured, in their order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unmergeable.attacks.attack import Attack, Thief
from unmergeable.attacks.ladder import CEILINGS, LADDER, attacks, guarded
from unmergeable.auditing import memory_plan
from unmergeable.auditing.audit_inputs import AuditInputs
from unmergeable.auditing.cells import FULL, Cell
from unmergeable.auditing.ensemble import FINE, Preset, Row, rows

# Guessed, for the remaining time: variants of an attack, and how often a candidate is looked at.
_VARIANTS, _LOOKS = 8, 3


@dataclass(frozen=True)
class NotRun:
    """Something that was left out.

    Attributes:
        what: it is.
        why: it did not run.
        need: what would make it run, where a verdict asks for it; else empty.
    """

    what: str
    why: str
    need: str = ""

    def document(self) -> dict[str, str]:
        """For JSON."""
        return {"what": self.what, "why": self.why, "need": self.need}


def plan(inputs: AuditInputs, preset: Preset) -> tuple[list[Cell], list[NotRun]]:
    """What an audit measures, cheapest first, and what it leaves out.

    Every merge method meets the open expert, the release and the aligned release. An attack beyond
    alignment meets the core methods alone, an alignment for comparison likewise. The cells of one
    model under one alignment follow each other, so that one model at a time need be held.
    """
    left: list[NotRun] = []
    if not preset.complete:
        why = f"the preset {preset.name!r} leaves it out"
        need = "run the standard ensemble, without --quick"
        left.append(NotRun("a part of the ensemble", why, need))
    every = rows(preset)
    for row in every:
        if not row.routed and (reason := unsuited(inputs, row)):
            need = "give texts, and training items for every peer"
            left.append(NotRun(f"the merge method {row.title}", reason, need))
    core = [row for row in every if row.name in preset.core]
    cells = [Cell("open", row) for row in every]
    cells += [Cell("protected", row) for row in every]
    cells += [Cell("protected", None, attack=attack) for attack in _ceilings(inputs, preset, left)]
    cells += [Cell("protected", row, FULL) for row in every]
    for attack in _ladder(inputs, preset, left):
        cells += [Cell("protected", row, FULL, attack) for row in _tried_with(attack, core)]
    for method in preset.aligns:
        cells += [Cell("protected", row.few(), method) for row in core]
    return cells, left


def steps(inputs: AuditInputs, cell: Cell) -> int:
    """How many evaluations a cell takes, roughly."""
    searched = cell.attack is None or cell.attack.before is not None
    alone = 1 if cell.method is None or not searched else _candidates(inputs, cell.method)
    return alone if cell.attack is None else _VARIANTS * alone


def unsuited(inputs: AuditInputs, row: Row) -> str:
    """Why a merge method cannot run on these inputs; empty if it can."""
    needs = row.own.needs if row.own else frozenset()
    if needs and not inputs.candidates.corpora:
        return (
            "it needs inputs of every model's domain: give the task file unlabelled texts, and "
            "training items for every peer"
        )
    return ""


def _candidates(inputs: AuditInputs, row: Row) -> int:
    if unsuited(inputs, row):
        return 0
    if row.count == 1:
        return 1
    return _LOOKS * (row.count + (len(FINE) if row.wide else 0)) + 1


def _tried_with(attack: Attack, core: Sequence[Row]) -> list[Row]:
    """The merge methods that an attack meets; one that trains starts at the first one's merge."""
    return [row.few() for row in core] if attack.before else list(core[:1])


def _ladder(inputs: AuditInputs, preset: Preset, left: list[NotRun]) -> list[Attack]:
    """The attacks beyond alignment that this audit has what it takes to run."""
    chosen = []
    for attack in attacks().values():
        if attack in CEILINGS:
            continue
        if attack not in LADDER:
            attack = guarded(attack)
        if not preset.tries(attack.name):
            why = f"the preset {preset.name!r} leaves it out"
            left.append(NotRun(attack.title, why))
        elif lacking := _lacking(inputs, attack):
            left.append(NotRun(attack.title, *lacking))
        else:
            chosen.append(attack)
    return chosen


def _ceilings(inputs: AuditInputs, preset: Preset, left: list[NotRun]) -> list[Attack]:
    """What open weights always allow, from the model as released."""
    chosen = [attack for attack in CEILINGS if preset.tries(attack.name)]
    if len(chosen) < len(CEILINGS):
        what = "some of the ceilings" if chosen else "the two ceilings"
        left.append(NotRun(what, f"the preset {preset.name!r} leaves them out"))
    possible = []
    for attack in chosen:
        if lacking := _lacking(inputs, attack):
            left.append(NotRun(f"the ceiling {attack.title}", lacking[0]))
        else:
            possible.append(attack)
    return possible


def _lacking(inputs: AuditInputs, attack: Attack) -> tuple[str, str] | None:
    """Why an attack cannot run here, and what would make it; None if it can."""
    thief = inputs.thief
    try:
        reason = attack.suits(thief)
    except Exception as error:  # a package's: it has not seen the release
        reason = f"it cannot tell whether it applies: {type(error).__name__}: {error}"
    if reason:
        return f"not applicable: {reason}", ""
    if missing := without_data(thief, attack):
        return missing
    if attack.sweeps and (told := memory_plan.training_lacks(inputs.device, inputs.parameters)):
        return f"training {told}", "run it on a device with more memory"
    return None


def without_data(thief: Thief, attack: Attack) -> tuple[str, str] | None:
    """Which data an attack needs and the thief has not, and what to give; None if he has them."""
    if attack.texts and attack.texts not in thief.texts:
        return f"there are no {attack.texts} texts", f"give texts: {attack.texts}"
    if attack.labels and not all(corpus.batches for corpus in thief.labelled):
        return (
            "there are no training items for every peer",
            "give training items for every peer",
        )
    return None
