"""What the sources of a defence claim, beside what an audit measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from typing import Any, cast

from unmergeable.auditing import report
from unmergeable.auditing.report.queries import best_of, named
from unmergeable.defences.registry import DEFENCES

Document = Mapping[str, Any]


def claims(document: Document, defence: str | None) -> list[dict[str, str]]:
    """What the defence's sources claim, beside what this audit measured."""
    values = {
        "released": [c for c in document["cells"] if c["attack"] == "none"],
        "attacked": [c for c in document["cells"] if c["attack"] != "none"],
    }
    measured, told = {}, named(cast(report.Document, document))
    for name, cells in values.items():
        counted = [c for c in cells if c["subject"] == "protected" and c["theft"]]
        if counted:
            best: Any = (best_of(counted, told) or counted[0])["value"]
            measured[name] = f"V = {best['value']:.2f} ({best['low']:.2f} to {best['high']:.2f})"
    losses = [
        f"{t['scores']['expert']['accuracy'] - t['scores']['protected']['accuracy']:+.1%} lost"
        for t in document["tasks"]
        if t["of"] == "protected"
    ]
    measured["own"] = ", ".join(losses)
    return [
        {
            **{name: claim[name] for name in ("defence", "source", "claim", "claimed")},
            "measured": measured.get(claim["measure"], "not measured"),
        }
        for claim in known_claims()
        if claim["defence"] in (defence or "").split("+")
    ]


@cache
def known_claims() -> list[dict[str, str]]:
    """What the sources of the defences claim, with the name of each."""
    return [
        {"defence": name, **asdict(claim)}
        for name, defence in DEFENCES.items()
        for claim in defence.claims
    ]
