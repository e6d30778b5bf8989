"""The report as one JSON document; `audit.report` describes its schema and renders it."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

from unmergeable.attacks.alignment.methods import METHODS
from unmergeable.auditing import controls, items
from unmergeable.auditing.audit_inputs import AuditInputs, defence_of
from unmergeable.auditing.baselines import Trained
from unmergeable.auditing.cells import ALIGN, NONE, Cell, Measurement, Price
from unmergeable.auditing.claims import claims
from unmergeable.auditing.ensemble import Row
from unmergeable.auditing.facts import facts
from unmergeable.auditing.flags import flags
from unmergeable.auditing.plan import NotRun
from unmergeable.auditing.report import SCHEMA
from unmergeable.auditing.verdict import decide
from unmergeable.checkpoint.folder import ModelFolder
from unmergeable.evaluation.scoring import Score
from unmergeable.evaluation.value import Value, strength, theft
from unmergeable.machine import cores, processor, total_memory
from unmergeable.models import device
from unmergeable.version import __version__

ROUTED = (
    "† keeps a set of weights per task, and is scored as it is deployed. It does not count for the "
    "verdict: anyone who keeps that much may keep both models whole, which always has V = 1"
)


class Entry(NamedTuple):
    """A cell of the matrix, and something that was found in it."""

    cell: Cell
    found: Measurement

    @property
    def row(self) -> Row:
        """The merge method; every cell of the matrix has one."""
        assert self.cell.method is not None
        return self.cell.method


@dataclass(frozen=True)
class AttackEntry:
    """A column of the matrix."""

    name: str
    title: str
    what: str
    stage: str
    price: Price

    @classmethod
    def of(cls, cell: Cell, price: Price) -> AttackEntry:
        """The column that a cell stands in.

        Args:
            cell: any of it.
            price: of what the cell's merges and attacks start from.
        """
        attack, name = cell.attack, cell.column
        if attack is not None:
            return cls(name, attack.title, attack.what, attack.stage, price)
        if name == NONE:
            return cls(name, "as released", "Merges the model as it is published.", "none", price)
        if name == ALIGN:
            return cls(name, "alignment", "Aligns the model to its public base.", "align", price)
        return cls(name, cell.align, METHODS[cell.align].sentence, "align", price)


@dataclass(eq=False)
class Findings:
    """All that a report is made of; distances are to the base, relative to its norm."""

    inputs: AuditInputs
    rows: Sequence[Row]
    entries: list[Entry] = field(default_factory=list)
    controls: list[controls.Control] = field(default_factory=list)
    attacks: dict[str, AttackEntry] = field(default_factory=dict)
    trained: dict[str, Trained] = field(default_factory=dict)
    ceilings: dict[Cell, list[Measurement]] = field(default_factory=dict)
    curves: dict[str, Any] = field(default_factory=dict)
    distances: dict[str, float] = field(default_factory=dict)
    suspicious: dict[str, str] = field(default_factory=dict)
    scenarios: list[dict[str, Any]] = field(default_factory=list)
    not_run: list[NotRun] = field(default_factory=list)


def build(findings: Findings, about: Mapping[str, Any]) -> dict[str, Any]:
    """The document.

    Args:
        findings: of the audit.
        about: command, started, seconds and preset.
    """
    inputs = findings.inputs
    opened = best_open(findings)
    best = None if opened is None else opened[1]
    cells = [_cell(inputs, entry, best) for entry in findings.entries]
    prices = [
        {name: cell[name] for name in ("attack", "method", "price", "theft")}
        for cell in cells
        if cell["subject"] == "protected" and cell["theft"]
    ]
    ceilings = [
        {
            "name": cell.column,
            "title": cell.title,
            "points": [
                _point(inputs, one, best)
                for one in sorted(points, key=lambda one: one.price.seconds)
                if not one.reason
            ],
        }
        for cell, points in findings.ceilings.items()
    ]
    entries = {
        name: _attack(entry, findings.trained.get(name)) for name, entry in findings.attacks.items()
    }
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "verdict": {},
        "subject": {
            "protected": _model(inputs, "protected", inputs.protected),
            "base": _model(inputs, "base", inputs.base),
            "original": _model(inputs, "original", inputs.original),
            "peers": [
                _model(inputs, name, folder)
                for name, folder in zip(inputs.names[1:], inputs.peers, strict=True)
            ],
        },
        "tasks": [
            _task(inputs, index, counts)
            for index, counts in enumerate(items.counted(inputs.tasks.tasks))
        ],
        "controls": controls.documents(findings.controls),
        "methods": [
            {
                **{field: getattr(row, field) for field in ("name", "title", "source", "paper")},
                "routed": row.routed,
                "note": ROUTED if row.routed else "",
            }
            for row in findings.rows
        ],
        "attacks": list(entries.values()),
        "cells": cells,
        "price_curve": {"attacks": prices, "ceilings": ceilings},
        "distances": {
            "of": {
                name: found if math.isfinite(found) else None
                for name, found in findings.distances.items()
            },
            "far": dict(findings.suspicious),
        },
        "not_run": [each.document() for each in findings.not_run],
        **findings.curves,
    }
    document["verdict"] = decide(facts(document)).document()
    document["claims"] = claims(document, defence_of(inputs.protected))
    dropped = sorted({entry.found.reason for entry in findings.entries if entry.found.dropped})
    document["flags"] = flags(document, dropped=dropped)
    if findings.scenarios:
        document["scenarios"] = list(findings.scenarios)
    document["provenance"] = {
        **about,
        "seed": inputs.seed,
        "versions": _versions(),
        "machine": _machine(inputs),
        "evaluations": inputs.evaluator.measured,
        "looked_up": inputs.evaluator.looked_up,
        "hashes": {
            **{f"weights of {name}": digest for name, digest in inputs.digests.items()},
            **{f"task {task.name}": task.content_hash for task in inputs.tasks.tasks},
        },
    }
    return document


def best_open(findings: Findings) -> tuple[Entry, Value] | None:
    """The best merge of the unprotected expert: what every theft is measured against."""
    found = [
        (entry, value)
        for entry in findings.entries
        if entry.cell.subject == "open" and not entry.found.reason and not entry.row.routed
        if (value := findings.inputs.value(entry.found.scores)) is not None
    ]

    def strong(pair: tuple[Entry, Value]) -> tuple[float, float, float]:
        estimate = pair[1].estimate
        return strength(estimate.value, pair[0].found.price.document(), estimate.low)

    return max(found, key=strong, default=None)


def _cell(inputs: AuditInputs, entry: Entry, best: Value | None) -> dict[str, Any]:
    cell, found = entry
    out: dict[str, Any] = {
        "subject": cell.subject,
        "attack": cell.column,
        "method": entry.row.name,
        "status": "skipped" if found.skipped else "failed" if found.reason else "measured",
        "reason": found.reason or None,
        "coefficients": found.label or None,
        "tried": found.tried,
        **dict.fromkeys(("value", "shares", "scores", "theft")),
        "price": None if found.reason else found.price.document(),
        "finite": all(score.finite for score in found.scores),
        "seconds": round(found.seconds, 3),
    }
    if found.reason:
        return out
    names = [task.name for task in inputs.tasks.tasks]
    out["scores"] = dict(zip(names, map(_score, found.scores), strict=True))
    value = inputs.value(found.scores)
    if value is not None:
        counted = best and cell.subject == "protected" and not entry.row.routed
        taken = theft(value, best) if best and counted else None
        out["value"] = value.estimate.document()
        out["shares"] = dict(zip(names, value.shares, strict=True))
        out["theft"] = taken and taken.document()
    return out


def _point(inputs: AuditInputs, found: Measurement, best: Value | None) -> dict[str, Any]:
    value = inputs.value(found.scores)
    taken = theft(value, best) if value and best else None
    return {"price": found.price.document(), "theft": taken and taken.document()}


def _attack(entry: AttackEntry, trained: Trained | None) -> dict[str, Any]:
    return {
        "name": entry.name,
        "title": entry.title,
        "what": entry.what,
        "stage": entry.stage,
        "price": entry.price.document(),
        "trained": trained and trained.document(),
    }


def _model(inputs: AuditInputs, name: str, folder: ModelFolder) -> dict[str, Any]:
    return {
        "name": folder.path.name,
        "digest": inputs.digests[name],
        "parameters": inputs.parameters,
        "family": inputs.layout.family,
        "defence": defence_of(folder),
    }


def _task(inputs: AuditInputs, index: int, counts: Mapping[str, int]) -> dict[str, Any]:
    task, singles = inputs.tasks.tasks[index], inputs.singles
    return {
        "name": task.name,
        "title": task.title,
        "of": inputs.owner_name(index),
        "kind": task.kind,
        "items": dict(counts),
        "hash": task.content_hash,
        "scores": {
            "base": _score(singles["base"][index]),
            "expert": _score(inputs.experts[index]),
            "protected": _score(singles["protected"][index]),
        },
    }


def _score(score: Score) -> dict[str, Any]:
    low, high = score.interval
    return {"accuracy": score.accuracy, "low": low, "high": high, "total": score.total}


def _versions() -> dict[str, str]:
    found = {"unmergeable": __version__, "python": platform.python_version()}
    for name in ("torch", "transformers", "mergekit", "numpy", "scipy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _machine(inputs: AuditInputs) -> dict[str, Any]:
    return {
        "processor": processor(),
        "cores": cores(),
        "memory_gb": round(total_memory() / 1e9, 1),
        "accelerator": device.title(inputs.device),
    }
