"""The warning flags of an audit: signs that it is not what it seems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unmergeable.auditing.items import doubts
from unmergeable.auditing.verdict import WIDE

Document = Mapping[str, Any]


def flags(document: Document, *, dropped: Sequence[str]) -> list[dict[str, str]]:
    """Signs that the audit is not what it seems.

    Args:
        document: the report, but for its flags.
        dropped: sentences on merges that lacked tensors.
    """
    found = [_flag("tensors dropped", "red", sentence) for sentence in dropped]
    for name, sentence in document["distances"]["far"].items():
        found.append(_flag(f"{name} far from the base", "red", sentence))
    for doubt in doubts(document["tasks"]):
        found.append(_flag(doubt.name, "red" if doubt.need else "amber", doubt.what))
    measured = [c for c in document["cells"] if c["theft"] is not None]
    best = {
        attack: max((_theft(c) for c in measured if c["attack"] == attack), default=None)
        for attack in ("none", "align")
        for c in measured
        if c["subject"] == "protected"
    }
    plain, aligned = best.get("none"), best.get("align")
    if plain is not None and aligned is not None and plain > aligned + WIDE / 2:
        what = f"the model as released merges better ({plain:.2f}) than aligned ({aligned:.2f})"
        found.append(_flag("black box beats white box", "red", _distrust(what)))
    white = max((_theft(c) for c in measured if c["subject"] == "protected"), default=0.0)
    for ceiling in document["price_curve"]["ceilings"]:
        points = [p["theft"]["value"] for p in ceiling["points"] if p["theft"]]
        if ceiling["name"] == "distil_release" and points and max(points) > white + WIDE / 2:
            what = (
                f"distillation takes {max(points):.2f}, and the best use of the weights {white:.2f}"
            )
            found.append(_flag("black box beats white box", "amber", _distrust(what)))
    theft = document["verdict"]["theft"]
    if theft and theft["high"] - theft["low"] > WIDE:
        found.append(
            _flag(
                "interval too wide",
                "amber",
                f"the headline figure is known to within {theft['low']:.2f} to "
                f"{theft['high']:.2f} only: score on more test items",
            )
        )
    for task in document["tasks"]:
        lost = task["scores"]["expert"]["accuracy"] - task["scores"]["protected"]["accuracy"]
        if task["of"] == "protected" and lost > 0.015:
            found.append(
                _flag(
                    "own accuracy lost",
                    "amber",
                    f"the released model is {lost:.1%} worse on {task['title']} than the original",
                )
            )
    failed = sorted({c["method"] for c in document["cells"] if c["status"] == "failed"})
    if failed:
        what = f"some cells of {', '.join(failed)} failed; the table gives the reasons"
        found.append(_flag("cells failed", "amber", what))
    return found


def _theft(cell: Document) -> float:
    return float(cell["theft"]["value"])


def _flag(name: str, severity: str, what: str) -> dict[str, str]:
    return {"name": name, "severity": severity, "what": what[0].upper() + what[1:] + "."}


def _distrust(what: str) -> str:
    return f"{what}: the attacks here are weaker than they should be, so the verdict is too kind"
