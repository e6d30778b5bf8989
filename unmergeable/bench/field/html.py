"""The page to read: every kept cell in one HTML file, to sort and to filter, with price curves.

It is made from the cells that the page in Markdown is made from, by the same functions. A code
behind a figure leads to the cell's row in the whole table.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmergeable.auditing.page import formatting as words
from unmergeable.auditing.page.prices import Curve, rising, told_apart
from unmergeable.auditing.page.render import render
from unmergeable.bench.field import tables
from unmergeable.bench.field.answer import answer, conclusion
from unmergeable.bench.field.columns import (
    ALONE,
    CEILINGS,
    CONTROLS,
    CROWD_GROUP,
    PAIR_GROUP,
    TITLES,
)
from unmergeable.bench.field.defences import NONE, FieldDefence
from unmergeable.bench.field.results import Cell, Figure, Place, Results, routed
from unmergeable.evaluation.value import Estimate

if TYPE_CHECKING:
    from unmergeable.auditing.report.schema import Ceiling, CeilingPoint, Theft

FILE = "results.html"
_CODE = re.compile(r"[0-9a-f]{8}")
_MARKS = re.compile(r"`([^`]+)`|\*\*([^*]+)\*\*|\*([^*]+)\*")


def page(
    runs: Mapping[str, Results], measured: Mapping[str, str], about: str, command: str, left: str
) -> str:
    """The page.

    Args:
        runs: what is kept of every run, by name.
        measured: how each was measured, in words.
        about: what the figures are, in words.
        command: what was typed.
        left: what of the page in Markdown is not here; empty for nothing.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    shown = [_Run(name, results).view(measured[name]) for name, results in runs.items()]
    view = {
        "runs": shown,
        "heads": tables.HEADS,
        "crowd_heads": tables.CROWD_HEADS,
        "filters": _filters(shown),
        "attacks": {name: title for run in runs.values() for name, title in _attacks(run).items()},
        "ceilings": [TITLES[name] for name in CEILINGS],
        "about": _marked(about),
        "command": command,
        "left": left,
    }
    return render(Path(__file__).with_name("field.html"), view)


def _filters(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What a reader may choose by: the kind, and the titles by name."""
    defences = {row["defence"]: row["title"] for run in runs for row in run["rows"]}
    attacks = {cell["attack"]: cell["attack_title"] for run in runs for cell in run["cells"]}
    found = {"suite": {run["name"]: run["title"] for run in runs}, "defence": defences}
    return [{"kind": kind, "names": names} for kind, names in (found | {"attack": attacks}).items()]


def _attacks(results: Results) -> dict[str, str]:
    """The attacks of the price curves, in their order; marks are named by their place in it."""
    return {name: results.attack_title(name) for name in results.attacks}


class _Run:
    """One run of a suite, as the template takes it."""

    def __init__(self, name: str, results: Results) -> None:
        self.name, self.results = name, results
        self.placed = sorted(results.placed(), key=self._order)
        self.known = {cell["key"][:8] for _, cell in self.placed}

    def _order(self, placed: tuple[Place, Cell]) -> tuple[bool, int, int, int, str]:
        """Pairs before crowds; defences and attacks as everywhere on the page."""
        at, _ = placed
        rows = [row.name for row in self.results.defences]
        attacks = (CONTROLS, ALONE, *self.results.attacks, *CEILINGS)
        place = rows.index(at.defence), at.seed, attacks.index(at.attack)
        return at.group != PAIR_GROUP, *place, at.method

    def view(self, measured: str) -> dict[str, Any]:
        results = self.results
        quick = ", a quick run" if results.index["quick"] else ""
        return {
            "name": self.name,
            "title": f"{results.index['suite']}: {results.index['title']}{quick}",
            "sentences": [_marked(sentence, self) for sentence in answer(results)],
            "counts": results.counts,
            "rows": [self._row(defence) for defence in results.defences],
            "crowd": [
                {
                    "defence": defence.name,
                    "title": tables.title(defence),
                    "entries": [self.entry(one) for one in found],
                }
                for defence, found in tables.crowd_entries(results)
            ],
            "models": len(results.index["groups"][CROWD_GROUP]),
            "controls": [
                {
                    "title": f"{name} ({len(results.index['groups'][group])} models)",
                    "passed": passed,
                    "measured": self.entry(found),
                }
                for group, name, passed, found in tables.checked(results)
            ],
            "panels": [one for row in results.defences if (one := self._panel(row))],
            "claims": [self._claim(*claim) for claim in tables.claimed(results)],
            "cells": [self._cell(at, cell) for at, cell in self.placed],
            "measured": _marked(measured),
        }

    def entry(self, entry: tables.Entry) -> dict[str, Any]:
        """A figure of a table, and the cells that it came from."""
        figure = entry.figure
        return {
            "text": entry.text,
            "interval": entry.interval,
            "value": "" if figure is None else f"{figure.value:.6f}",
            "how": "; ".join(entry.how).replace("`", ""),
            "price": _price(figure) if figure and figure.price.get("seconds") else "",
            "codes": [self.code(key[:8]) for key in figure.keys] if figure else [],
            "top": [self.code(key[:8]) for key in figure.top] if figure else [],
            # A share of what a merge may be worth; accuracies have no colour.
            "heat": round(figure.value, 3) if figure and figure.theft else None,
        }

    def code(self, code: str) -> dict[str, str]:
        """A cell's code, and where its row is."""
        return {"code": code, "id": f"{self.name}-{code}"}

    def _row(self, defence: FieldDefence) -> dict[str, Any]:
        return {
            "defence": defence.name,
            "title": tables.title(defence),
            "entries": [self.entry(one) for one in tables.entries(self.results, defence)],
            "conclusion": conclusion(self.results, defence) or tables.MISSING,
        }

    def _claim(
        self,
        defence: FieldDefence,
        claim: Mapping[str, str],
        found: tables.Entry,
        opened: tables.Entry | None,
    ) -> dict[str, Any]:
        return {
            **claim,
            "row": defence.name,
            "title": tables.title(defence),
            "measured": self.entry(found),
            "opened": None if opened is None else self.entry(opened),
        }

    def _cell(self, at: Place, cell: Cell) -> dict[str, Any]:
        value = self.results.worth(at.group, cell)
        theft = None if value is None else self.results.theft(at.group, value)
        names = {row.name: tables.title(row) for row in self.results.defences}
        return {
            **at._asdict(),
            **self.code(cell["key"][:8]),
            "title": names[at.defence],
            "attack_title": self.results.attack_title(at.attack),
            "models": len(self.results.index["groups"][at.group]),
            "routed": bool(at.method) and routed(at.method),
            "value": None if value is None else value.estimate.document(),
            "theft": None if theft is None else theft.document(),
            "reason": " ".join(cell["reason"].split()),
            "price": cell["price"],
        }

    def _panel(self, defence: FieldDefence) -> dict[str, Any] | None:
        """The price curve of a row's first seed; None where no attack was measured."""
        found = [
            (theft, cell["key"][:8])
            for at, cell in self.placed
            if (at.group, at.defence, at.seed) == (PAIR_GROUP, defence.name, 0)
            and at.attack in self.results.attacks
            and not routed(at.method)
            and (theft := self._theft(at, cell))
        ]
        thefts, titles = [theft for theft, _ in found], _attacks(self.results)
        marked = told_apart(thefts, titles)
        if not marked:
            return None
        names = [str(list(titles).index(theft["attack"]) + 1) for theft in marked]
        ceilings = list(self._ceilings(defence))
        curve = Curve(marked, names, rising(thefts), ceilings, titles)
        codes = {id(theft): code for theft, code in found}
        return {
            "defence": defence.name,
            "title": tables.title(defence),
            "drawing": curve.drawn(300, 250, "panel"),
            "thefts": [
                {**theft, "title": titles[theft["attack"]], **self.code(codes[id(theft)])}
                for theft in marked
            ],
            "ceilings": [
                {**point, "attack": ceiling["name"], "title": ceiling["title"], **code}
                for ceiling in ceilings
                if (code := self._ceiling_code(defence, ceiling["name"]))
                for point in ceiling["points"]
            ],
        }

    def _theft(self, at: Place, cell: Cell) -> Theft | None:
        value = self.results.worth(at.group, cell)
        theft = None if value is None else self.results.theft(at.group, value)
        if theft is None:
            return None
        return {
            "attack": at.attack,
            "method": at.method,
            "price": cell["price"],
            "theft": _document(theft),
        }

    def _ceilings(self, defence: FieldDefence) -> Iterator[Ceiling]:
        """What was reached on the way to each ceiling, and the best, which has an interval."""
        opened = self.results.best(NONE, ("none",))
        for name in CEILINGS:
            best = self.results.best(defence, (name,))
            cell = self.results.cell(PAIR_GROUP, defence, 0, name)
            if cell is None or best is None or best.theft is None or opened is None:
                continue
            points: list[CeilingPoint] = [
                {
                    "price": point["price"],
                    "theft": {"value": point["value"] / opened.value, "low": None, "high": None},
                }
                for point in cell.get("points", ())
                if point["price"]["seconds"] != best.price["seconds"]
            ]
            points.append({"price": cell["price"], "theft": _document(best.theft)})
            yield {"name": name, "title": TITLES[name], "points": points}

    def _ceiling_code(self, defence: FieldDefence, name: str) -> dict[str, str] | None:
        cell = self.results.cell(PAIR_GROUP, defence, 0, name)
        return None if cell is None else self.code(cell["key"][:8])


def _price(figure: Figure) -> str:
    found: Any = figure.price
    spent = words.seconds(found["seconds"])
    return f"{spent}, {words.data(found)}"


def _document(found: Estimate) -> Any:
    return found.document()


def _marked(text: str, run: _Run | None = None) -> str:
    """Markdown's bold, emphasis and code as mark-up; codes of cells lead to their rows."""

    def one(found: re.Match[str]) -> str:
        code, bold, emphasis = found.groups()
        if bold:
            return f"<strong>{bold}</strong>"
        if emphasis:
            return f"<em>{emphasis}</em>"
        if run is not None and _CODE.fullmatch(code) and code in run.known:
            return f'<a class="code" href="#{escape(run.code(code)["id"])}">{code}</a>'
        return f"<code>{code}</code>"

    return _MARKS.sub(one, escape(text))
