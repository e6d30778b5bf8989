"""The report as one JSON document; `audit.report` describes its schema and renders it."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from unmergeable.attacks.attack import Attack
from unmergeable.auditing import controls, items
from unmergeable.auditing.audit_inputs import Setting, defence_of
from unmergeable.auditing.baselines import Trained
from unmergeable.auditing.cells import Cell, Price
from unmergeable.auditing.claims import claims
from unmergeable.auditing.ensemble import Row
from unmergeable.auditing.facts import facts
from unmergeable.auditing.flags import flags
from unmergeable.auditing.report import SCHEMA
from unmergeable.auditing.verdict import decide
from unmergeable.checkpoint.folder import ModelFolder
from unmergeable.evaluation.scoring import Score
from unmergeable.evaluation.value import Value, strength, theft
from unmergeable.version import __version__

ROUTED = (
    "† keeps a set of weights per task, and is scored as it is deployed. It does not count for the "
    "verdict: whoever keeps that much may keep both models whole, which always has V = 1"
)


@dataclass(frozen=True, eq=False)
class Entry:
    """A cell with its place in the matrix."""

    subject: str
    attack: str
    row: str
    cell: Cell
    skipped: bool = False


@dataclass(frozen=True)
class AttackEntry:
    """A column of the matrix."""

    name: str
    title: str
    what: str
    stage: str
    price: Price


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


@dataclass(frozen=True, eq=False)
class Findings:
    """All that a report is made of; distances are to the base, relative to its norm."""

    setting: Setting
    rows: Sequence[Row]
    entries: Sequence[Entry]
    controls: Sequence[controls.Control]
    attacks: Mapping[str, AttackEntry]
    trained: Mapping[str, Trained]
    ceilings: Mapping[Attack, Sequence[Cell]]
    curves: Mapping[str, Any]
    distances: Mapping[str, float]
    suspicious: Mapping[str, str]
    scenarios: Sequence[Mapping[str, Any]]
    not_run: Sequence[NotRun]

    def routed(self, entry: Entry) -> bool:
        """Whether a cell's method deploys a set of weights per task."""
        return next(row.routed for row in self.rows if row.name == entry.row)


def build(findings: Findings, about: Mapping[str, Any]) -> dict[str, Any]:
    """The document.

    Args:
        findings: of the audit.
        about: command, started, seconds and preset.
    """
    setting = findings.setting
    opened = best_open(setting, findings.rows, findings.entries)
    best = None if opened is None else opened[1]
    cells = [_cell(findings, entry, best) for entry in findings.entries]
    prices = [
        {name: cell[name] for name in ("attack", "method", "price", "theft")}
        for cell in cells
        if cell["subject"] == "protected" and cell["theft"]
    ]
    ceilings = [
        {
            "name": attack.name,
            "title": attack.title,
            "points": [
                _point(setting, cell, best)
                for cell in sorted(points, key=lambda cell: cell.price.seconds)
                if not cell.reason
            ],
        }
        for attack, points in findings.ceilings.items()
    ]
    entries = {
        name: _attack(entry, findings.trained.get(name)) for name, entry in findings.attacks.items()
    }
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "verdict": {},
        "subject": {
            "protected": _model(setting, "protected", setting.protected),
            "base": _model(setting, "base", setting.base),
            "original": _model(setting, "original", setting.original),
            "peers": [
                _model(setting, name, folder)
                for name, folder in zip(setting.names[1:], setting.peers, strict=True)
            ],
        },
        "tasks": [
            _task(setting, index, counts)
            for index, counts in enumerate(items.counted(setting.tasks.tasks))
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
    document["claims"] = claims(document, defence_of(setting.protected))
    dropped = sorted({entry.cell.reason for entry in findings.entries if entry.cell.dropped})
    document["flags"] = flags(document, dropped=dropped)
    if findings.scenarios:
        document["scenarios"] = list(findings.scenarios)
    document["provenance"] = {
        **about,
        "seed": setting.seed,
        "versions": _versions(),
        "machine": _machine(setting),
        "evaluations": setting.evaluator.measured,
        "looked_up": setting.evaluator.looked_up,
        "hashes": {
            **{f"weights of {name}": digest for name, digest in setting.digests.items()},
            **{f"task {task.name}": task.content_hash for task in setting.tasks.tasks},
        },
    }
    return document


def best_open(
    setting: Setting, rows: Sequence[Row], entries: Sequence[Entry]
) -> tuple[Entry, Value] | None:
    """The best merge of the unprotected expert: what every theft is measured against."""
    routed = {row.name for row in rows if row.routed}
    found = [
        (entry, value)
        for entry in entries
        if entry.subject == "open" and not entry.cell.reason and entry.row not in routed
        if (value := setting.value(entry.cell.scores)) is not None
    ]

    def strong(pair: tuple[Entry, Value]) -> tuple[float, float, float]:
        found = pair[1].estimate
        return strength(found.value, pair[0].cell.price.document(), found.low)

    return max(found, key=strong, default=None)


def _cell(findings: Findings, entry: Entry, best: Value | None) -> dict[str, Any]:
    setting, cell = findings.setting, entry.cell
    out: dict[str, Any] = {
        "subject": entry.subject,
        "attack": entry.attack,
        "method": entry.row,
        "status": "skipped" if entry.skipped else "failed" if cell.reason else "measured",
        "reason": cell.reason or None,
        "coefficients": cell.label or None,
        "tried": cell.tried,
        **dict.fromkeys(("value", "shares", "scores", "theft")),
        "price": None if cell.reason else cell.price.document(),
        "finite": all(score.finite for score in cell.scores),
        "seconds": round(cell.seconds, 3),
    }
    if cell.reason:
        return out
    names = [task.name for task in setting.tasks.tasks]
    out["scores"] = dict(zip(names, map(_score, cell.scores), strict=True))
    value = setting.value(cell.scores)
    if value is not None:
        counted = best and entry.subject == "protected" and not findings.routed(entry)
        taken = theft(value, best) if best and counted else None
        out["value"] = value.estimate.document()
        out["shares"] = dict(zip(names, value.shares, strict=True))
        out["theft"] = taken and taken.document()
    return out


def _point(setting: Setting, cell: Cell, best: Value | None) -> dict[str, Any]:
    value = setting.value(cell.scores)
    taken = theft(value, best) if value and best else None
    return {"price": cell.price.document(), "theft": taken and taken.document()}


def _attack(entry: AttackEntry, trained: Trained | None) -> dict[str, Any]:
    return {
        "name": entry.name,
        "title": entry.title,
        "what": entry.what,
        "stage": entry.stage,
        "price": entry.price.document(),
        "trained": trained and trained.document(),
    }


def _model(setting: Setting, name: str, folder: ModelFolder) -> dict[str, Any]:
    return {
        "name": folder.path.name,
        "digest": setting.digests[name],
        "parameters": setting.parameters,
        "family": setting.layout.family,
        "defence": defence_of(folder),
    }


def _task(setting: Setting, index: int, counts: Mapping[str, int]) -> dict[str, Any]:
    task, singles = setting.tasks.tasks[index], setting.singles
    return {
        "name": task.name,
        "title": task.title,
        "of": setting.owner_name(index),
        "kind": task.kind,
        "items": dict(counts),
        "hash": task.content_hash,
        "scores": {
            "base": _score(singles["base"][index]),
            "expert": _score(setting.experts[index]),
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


def _machine(setting: Setting) -> dict[str, Any]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = None
    if hasattr(os, "sysconf"):
        memory = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    device = setting.candidates.runner.device
    return {
        "processor": _processor(),
        "cores": cores,
        "memory_gb": memory,
        "accelerator": None if device.type == "cpu" else str(device),
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
