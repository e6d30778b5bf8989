"""One page that holds everything: opens offline, needs no script, follows light and dark mode."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from unmergeable.auditing.page import formatting as words
from unmergeable.auditing.page.render import render
from unmergeable.auditing.report import figures
from unmergeable.auditing.report.check import check
from unmergeable.auditing.report.queries import Column, Reading, worth
from unmergeable.auditing.report.schema import Cell, Document

STATUS = {
    "broken": ("broken", "Protection broken"),
    "holds": ("held", "Holds, by what was run"),
    "undecided": ("unsure", "Undecided"),
}
CURVES = {"open": "open", "protected": "protected", "aligned": "after alignment"}


def render_html(document: Mapping[str, Any]) -> str:
    """The page of a report.

    Raises:
        InputError: the document does not follow the schema.
        MissingExtraError: jinja2 is not installed.
    """
    report = check(document)
    return render(Path(__file__).with_name("template.html"), _view(report))


def _view(report: Document) -> dict[str, Any]:
    """Everything the template asks for that is not in the document itself."""
    reading = Reading(report)
    columns = reading.columns()
    line, displacement = report["line"], report["displacement"]
    curves = line["curves"] if line else []
    return {
        "r": report,
        "reading": reading,
        "status": _status(reading),
        "headline": words.headline(report["verdict"]["sentence"]),
        "levels": words.LEVELS,
        "plural": words.plural,
        "keys": _keys(reading),
        "columns": columns,
        "groups": [(name, len(list(run))) for name, run in groupby(c.group for c in columns)],
        "rows": [(method, _row(reading, columns, method["name"])) for method in report["methods"]],
        "best": [_entry(reading, column.best) for column in columns],
        "unclear": [cell for cell in report["cells"] if cell["status"] != "measured"],
        "price": figures.price_figure(reading),
        "thefts": reading.thefts(),
        "frontier": reading.frontier(),
        "panels": figures.line_panels(line, report["tasks"]) if line else [],
        "line_tasks": [
            task
            for task in report["tasks"]
            if any(task["name"] in curve["losses"] for curve in curves)
        ],
        "displacement": figures.displacement_figure(displacement) if displacement else None,
        "curve_titles": CURVES | {curve["name"]: curve["title"] for curve in curves},
        "scenarios": report.get("scenarios", []),
        "failed": [control for control in report["controls"] if not control["passed"]],
    }


def _status(reading: Reading) -> tuple[str, str]:
    """Colour and word of the verdict."""
    return STATUS[reading.report["verdict"]["answer"]]


def _keys(reading: Reading) -> list[dict[str, str]]:
    """The four figures a reader needs before any other."""
    parts: list[tuple[str, Cell | None, str]] = [
        ("Open model", reading.open, "open"),
        ("Protected, as released", reading.released, "protected"),
        ("After the best attack", reading.attacked, "attack"),
    ]
    keys = [
        {
            "name": name,
            "figure": words.value(cell["value"] if cell else None),
            "unit": "V" if cell else "",
            "interval": words.interval(cell["value"] if cell else None),
            "how": reading.who(cell) if cell else "not measured",
            "kind": kind,
        }
        for name, cell, kind in parts
    ]
    price = reading.price
    keys.append(
        {
            "name": "Price of that attack",
            "figure": words.seconds(price["seconds"]) if price else words.NONE,
            "unit": "",
            "interval": words.data(price) if price else "",
            "how": words.flops(price),
            "kind": "attack",
        }
    )
    return keys


def _row(reading: Reading, columns: list[Column], method: str) -> list[dict[str, Any]]:
    return [
        _entry(reading, reading.cells.get((column.subject, column.attack["name"], method)))
        for column in columns
    ]


def _entry(reading: Reading, cell: Cell | None) -> dict[str, Any]:
    """One cell of the heat map: what it shows, how hot it is, and its detail."""
    if cell is None:
        return {"text": "", "heat": None, "detail": "not part of this audit", "kind": "absent"}
    found = worth(cell)
    if cell["status"] != "measured":
        return {
            "text": cell["status"],
            "heat": None,
            "detail": reading.detail(cell),
            "kind": cell["status"],
        }
    return {
        "text": words.value(cell["value"]),
        "heat": None if found is None else round(min(max(found, 0.0), 1.0), 3),
        "detail": reading.detail(cell),
        "kind": "unknown" if found is None else "measured",
    }
