"""Holds a document against the schema: its shape from the types, then what types cannot say."""

from __future__ import annotations

import math
import types
from collections.abc import Iterable, Mapping
from typing import (
    Any,
    Literal,
    NotRequired,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from unmergeable.auditing.report.schema import SCHEMA, Document
from unmergeable.errors import InputError, quoted


def check(document: Mapping[str, Any]) -> Document:
    """The same document, known to be one that can be rendered.

    Raises:
        InputError: names the first place that is wrong, its value, and what belongs there.
    """
    if not isinstance(document, Mapping):
        raise InputError(f"the report is {quoted(document)}: it must be an object")
    found = document.get("schema")
    if found != SCHEMA:
        raise InputError(
            f"the report's schema is {quoted(found)}: this version reads {SCHEMA!r}; "
            "run the audit again or use the version that wrote it"
        )
    _shape(document, Document, "")
    report = cast(Document, document)
    _answer(report)
    _names(report)
    _lengths(report)
    return report


def _shape(value: Any, kind: Any, place: str) -> None:
    """Walks value and type together."""
    origin = get_origin(kind)
    if kind is Any:
        return
    if is_typeddict(kind):
        _require(isinstance(value, Mapping), value, "an object", place)
        for name, part in get_type_hints(kind, include_extras=True).items():
            if get_origin(part) is NotRequired:
                if name not in value:
                    continue
                (part,) = get_args(part)
            if name not in value:
                raise InputError(f"the report lacks {_join(place, name)}: add it, or null if none")
            _shape(value[name], part, _join(place, name))
    elif origin in (Union, types.UnionType):
        rest = [part for part in get_args(kind) if part is not types.NoneType]
        if value is not None:
            _shape(value, rest[0], place)  # the schema's unions are all "something or null"
    elif origin is Literal:
        choices = get_args(kind)
        fits = not isinstance(value, bool) and value in choices
        _require(fits, value, "one of " + ", ".join(map(repr, choices)), place)
    elif origin is list:
        _require(isinstance(value, list), value, "a list", place)
        for index, item in enumerate(value):
            _shape(item, get_args(kind)[0], f"{place}[{index}]")
    elif origin is dict:
        _require(isinstance(value, Mapping), value, "an object", place)
        for name, item in value.items():
            _require(isinstance(name, str), name, "a name", place)
            _shape(item, get_args(kind)[1], _join(place, name))
    else:
        _require(_fits(value, kind), value, _WORDS[kind], place)


_WORDS = {
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    float: "a finite number or, where there is none, null",
}


def _fits(value: Any, kind: type) -> bool:
    if kind in (str, bool):
        return isinstance(value, kind)
    if isinstance(value, bool):
        return False
    if kind is int:
        return isinstance(value, int)
    return isinstance(value, int | float) and math.isfinite(value)


def _require(fits: bool, value: Any, wanted: str, place: str) -> None:
    if not fits:
        raise InputError(f"the report's {place} is {quoted(value)}: it must be {wanted}")


def _answer(report: Document) -> None:
    """The verdict says the same in each of its fields."""
    verdict = report["verdict"]
    if verdict["broken"] != (verdict["answer"] == "broken"):
        raise InputError(
            f"the report's verdict.broken is {verdict['broken']} and its answer "
            f"{verdict['answer']!r}: make them agree"
        )


def _names(report: Document) -> None:
    """Everything that is referred to is there, once."""
    attacks = _unique((attack["name"] for attack in report["attacks"]), "attacks")
    methods = _unique((method["name"] for method in report["methods"]), "methods")
    tasks = _unique((task["name"] for task in report["tasks"]), "tasks")
    used: list[tuple[str, Any, set[str], str]] = [
        ("verdict.attack", report["verdict"]["attack"], attacks, "attacks"),
        ("verdict.method", report["verdict"]["method"], methods, "methods"),
    ]
    for index, cell in enumerate(report["cells"]):
        place = f"cells[{index}]"
        used += [
            (f"{place}.attack", cell["attack"], attacks, "attacks"),
            (f"{place}.method", cell["method"], methods, "methods"),
        ]
        for part in (cell["shares"], cell["scores"]):
            used += [(f"{place}'s task", name, tasks, "tasks") for name in part or ()]
    for index, theft in enumerate(report["price_curve"]["attacks"]):
        place = f"price_curve.attacks[{index}]"
        used += [
            (f"{place}.attack", theft["attack"], attacks, "attacks"),
            (f"{place}.method", theft["method"], methods, "methods"),
        ]
    for curve in report["line"]["curves"] if report["line"] else ():
        for name in (*curve["losses"], *curve["accuracies"]):
            used.append((f"line's {curve['name']} curve's task", name, tasks, "tasks"))
    for place, name, known, listed in used:
        if name is not None and name not in known:
            raise InputError(
                f"the report's {place} is {name!r}, which its {listed} do not list: "
                f"they list {', '.join(sorted(known)) or 'nothing'}"
            )


def _lengths(report: Document) -> None:
    """A curve has one value for each place on its axis."""
    rows: list[tuple[str, int, int]] = []
    if line := report["line"]:
        for curve in line["curves"]:
            for part in ("losses", "accuracies"):
                for task, values in curve[part].items():  # type: ignore[literal-required]
                    place = f"line, {curve['name']}, {part}, {task}"
                    rows.append((place, len(values), len(line["at"])))
    if displacement := report["displacement"]:
        for moved in displacement["curves"]:
            place = f"displacement, {moved['name']}"
            rows.append((place, len(moved["values"]), len(displacement["layers"])))
    for place, have, want in rows:
        if have != want:
            raise InputError(
                f"the report's {place} has {have} values for {want} places: give one for each"
            )


def _unique(names: Iterable[str], listed: str) -> set[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InputError(f"the report's {listed} hold {name!r} twice: keep one")
        seen.add(name)
    return seen


def _join(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name
