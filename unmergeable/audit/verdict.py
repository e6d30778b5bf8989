"""What an audit says in the end: the verdict, the warning flags, and claims beside measurements."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

# A theft of half of what the unprotected merge is worth is a theft.
BROKEN = 0.5
WIDE = 0.3  # an interval of the headline figure that wide says little
_TIE = 0.02

Document = Mapping[str, Any]


def verdict(
    cells: Sequence[Document], attacks: Mapping[str, Document], ceilings: Sequence[Document]
) -> dict[str, Any]:
    """The worst case over all attacks and merge methods.

    Levels are those of the ladder of protection (design, section 4): 0, an unmodified merge tool
    gets it; 1, alignment and data-free repair get it; 2, an attack with data does, more cheaply
    than the ceilings; 3, none of these, with all of them run.

    Args:
        cells: the report's, measured or not.
        attacks: the report's, by name.
        ceilings: the report's price curve's.
    """
    found = [c for c in cells if c["subject"] == "protected" and c["theft"] is not None]
    if not found:
        return _nothing()
    stages = {name: attack["stage"] for name, attack in attacks.items()}
    level: int | None = None
    for number, group in enumerate((("none",), ("align", "data-free"), ("text", "labels"))):
        reached = [c for c in found if stages[c["attack"]] in group and _theft(c) >= BROKEN]
        if number == 2:
            reached = [c for c in reached if _beats(c, ceilings)]
        if reached:
            level = number
            break
    complete = {"text", "labels"} <= {stages[c["attack"]] for c in found} and bool(ceilings)
    worst = _worst(found if level is None else reached)
    if level is None and complete:
        level = 3
    return {
        "sentence": _sentence(level, worst, found, attacks),
        "broken": level in (0, 1, 2),
        "level": level,
        "theft": worst["theft"],
        "attack": worst["attack"],
        "method": worst["method"],
        "price": worst["price"],
    }


def flags(
    document: Document, *, dropped: Sequence[str], suspicious: Mapping[str, str]
) -> list[dict[str, str]]:
    """Signs that the audit is not what it seems.

    Args:
        document: the report, but for its flags.
        dropped: sentences on merges that lacked tensors.
        suspicious: of models that are too far from the base, by name.
    """
    found = [_flag("tensors dropped", "red", sentence) for sentence in dropped]
    for name, sentence in suspicious.items():
        found.append(_flag(f"{name} far from the base", "red", sentence))
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


def claims(document: Document, defence: str | None) -> list[dict[str, str]]:
    """What the defence's sources claim, beside what this audit measured."""
    values = {
        "released": [c for c in document["cells"] if c["attack"] == "none"],
        "attacked": [c for c in document["cells"] if c["attack"] != "none"],
    }
    measured = {}
    for name, cells in values.items():
        worth = [c["value"] for c in cells if c["subject"] == "protected" and c["value"]]
        if worth:
            best = max(worth, key=lambda value: float(value["value"]))
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
    """What the sources of the defences claim: the rows of claims.toml."""
    text = (files("unmergeable.audit") / "claims.toml").read_text(encoding="utf-8")
    found: list[dict[str, str]] = tomllib.loads(text)["claim"]
    return found


def _sentence(
    level: int | None, worst: Document, cells: Sequence[Document], attacks: Mapping[str, Document]
) -> str:
    price, theft = worst["price"], worst["theft"]
    share = f"{theft['value']:.0%} ({theft['low']:.0%} to {theft['high']:.0%})"
    took = (
        f"{worst['method'] or 'it'} reaches V = {worst['value']['value']:.2f}, {share} of what the "
        "best merge of the unprotected expert is worth"
    )
    released = max((c["value"]["value"] for c in cells if c["attack"] == "none"), default=None)
    plain = "" if released is None else f"an unmodified merge tool gets V = {released:.2f}"
    data = _data(price)
    title = attacks[worst["attack"]]["title"]
    if level == 0:
        return f"Not protected: merged as released, {took}."
    if level == 1:
        return f"Broken in {_time(price['seconds'])} and {data}: after {title}, {took}; {plain}."
    if level == 2:
        return (
            f"Broken with data: {title} costs {_time(price['seconds'])} and {data}, less than what "
            f"open weights always allow, and {took}; {plain}."
        )
    if level == 3:
        return (
            "Holds against every attack that was run, up to what open weights always allow: at "
            f"worst, with {title}, {took}; {plain}."
        )
    return (
        "Not broken by what was run, which is not everything (see below): at worst, with "
        f"{title}, {took}; {plain}."
    )


def _nothing() -> dict[str, Any]:
    return {
        "sentence": "Nothing can be said: no merge of the protected model could be measured.",
        "broken": False,
        **dict.fromkeys(("level", "theft", "attack", "method", "price")),
    }


def _worst(cells: Sequence[Document]) -> Document:
    """The dearest theft; of those about as dear, the cheapest."""
    top = max(map(_theft, cells))
    return min((c for c in cells if _theft(c) >= top - _TIE), key=lambda c: c["price"]["seconds"])


def _beats(cell: Document, ceilings: Sequence[Document]) -> bool:
    """Whether an attack is cheaper than every ceiling that takes as much."""
    rivals = [
        point["price"]["seconds"]
        for ceiling in ceilings
        for point in ceiling["points"]
        if point["theft"] and point["theft"]["value"] >= _theft(cell)
    ]
    return bool(cell["price"]["seconds"] < min(rivals, default=float("inf")))


def _theft(cell: Document) -> float:
    return float(cell["theft"]["value"])


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def _data(price: Document) -> str:
    parts = [f"{price[kind]} {kind} items" for kind in ("labelled", "unlabelled") if price[kind]]
    return " and ".join(parts) or "without data"


def _flag(name: str, severity: str, what: str) -> dict[str, str]:
    return {"name": name, "severity": severity, "what": what[0].upper() + what[1:] + "."}


def _distrust(what: str) -> str:
    return f"{what}: the attacks here are weaker than they should be, so the verdict is too kind"
