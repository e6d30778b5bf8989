"""What `audit_time.py` measures of merges and attacks that need inputs, as tables for a page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from unmergeable.auditing.ensemble import Preset
from unmergeable.auditing.page.formatting import both, number
from unmergeable.checkpoint.markdown_sections import put
from unmergeable.evaluation import store

DOCS = Path(__file__).parents[1] / "docs" / "attacks.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
NEEDS = {
    preset.name: preset
    for preset in (
        Preset(
            "learned",
            methods=(
                *("task_arithmetic", "regmean", "lot", "fisher"),
                *("adamerging", "adamerging_task", "neulig", "mergetune"),
            ),
            core=("task_arithmetic",),
            attacks=(),
            line=0,
            settings=8,
        ),
        Preset(
            "trained",
            methods=("task_arithmetic",),
            attacks=(
                *("distil_merge_in_domain", "pull_back_gradient_in_domain", "fine_tune"),
                *("distil_release_in_domain", "fine_tune_release"),
            ),
            line=0,
            settings=8,
        ),
        Preset("stealer", methods=("linear",), core=(), attacks=(), line=0, settings=2),
    )
}
_KEPT = ("tasks", "methods", "attacks", "cells", "price_curve", "scenarios", "provenance")


def keep(preset: str, document: dict[str, Any], rows: Sequence[tuple[str, float, float]]) -> None:
    """Keeps what the tables are made of, beside what else is cached."""
    found = {name: document[name] for name in _KEPT if name in document}
    parts = [{"what": what, "seconds": s, "peak": peak} for what, s, peak in rows]
    store.write_json(_file(preset), {**found, "parts": parts})


def write() -> None:
    """Puts the tables of all that was kept into the page."""
    found = [table for table in map(_section, NEEDS) if table]
    content = "\n" + "\n\n".join(found) + "\n"
    DOCS.write_text(put(DOCS.read_text("utf-8"), BEGIN, END, content), "utf-8")


def _file(preset: str) -> Path:
    return store.root() / "audit_time" / f"{preset}.json"


def _section(preset: str) -> str:
    if not _file(preset).exists():
        return ""
    document = json.loads(_file(preset).read_text("utf-8"))
    lines = {"learned": _learned, "trained": _trained, "stealer": _stealer}[preset](document)
    return "\n".join(lines)


def _setting(document: dict[str, Any]) -> str:
    """How large the run was, and on what."""
    items = ", ".join(
        f"{task['title']}: {task['items']['test']} test items, base {_percent(task, 'base')}, "
        f"expert {_percent(task, 'expert')}"
        for task in document["tasks"]
    )
    machine = document["provenance"]["machine"]
    seed = document["provenance"]["seed"]
    return f"{items}; seed {seed}; {machine['processor']}, {machine['cores']} cores."


def _percent(task: dict[str, Any], which: str) -> str:
    return f"{100 * task['scores'][which]['accuracy']:.0f} %"


def _peak(document: dict[str, Any], what: str) -> str:
    found = [part["peak"] for part in document["parts"] if part["what"] == what]
    return f"{max(found) / 1e9:.2f}" if found else number(None)


def _cell(document: dict[str, Any], **place: str) -> dict[str, Any]:
    found: dict[str, Any] = next(
        cell
        for cell in document["cells"]
        if all(cell[name] == value for name, value in place.items())
    )
    return found


def _learned(document: dict[str, Any]) -> Iterator[str]:
    yield f"`python benchmarks/audit_time.py learned`. {_setting(document)}"
    yield ""
    yield "| merge | V, open | V, as released | V, aligned | seconds a merge | peak, GB |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for method in document["methods"]:
        name = method["name"]
        columns = [
            _cell(document, subject=subject, attack=attack, method=name)
            for subject, attack in (("open", "none"), ("protected", "none"), ("protected", "align"))
        ]
        values = " | ".join(cell["reason"] or both(cell["value"]) for cell in columns)
        price = columns[0]["price"]
        seconds = f"{price['seconds']:.1f}" if price else number(None)
        peaks = [_peak(document, f"{method['title']}, {column}") for column in ("open", "none")]
        yield f"| {method['title']} | {values} | {seconds} | {max(peaks)} |"


def _trained(document: dict[str, Any]) -> Iterator[str]:
    yield f"`python benchmarks/audit_time.py trained`. {_setting(document)}"
    yield ""
    yield "| attack | best | V | theft | texts | labels | seconds | PFLOP | peak, GB |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    titles = {method["name"]: method["title"] for method in document["methods"]}
    for attack in document["attacks"]:
        cells = [cell for cell in document["cells"] if cell["attack"] == attack["name"]]
        cells = [cell for cell in cells if cell["subject"] == "protected"]
        done = [cell for cell in cells if not cell["reason"]]
        if done:
            best = max(done, key=lambda cell: cell["value"]["value"])
            label = (best["coefficients"] or {}).get("variant", "")
            what = f"{attack['title']}, {titles[best['method']]}"
            yield _row(document, attack["title"], label, best["value"], best, what)
        for cell in cells:
            if cell["reason"]:
                yield f"| {attack['title']} | {cell['reason']} | | | | | | | |"
    for ceiling in document["price_curve"]["ceilings"]:
        points = [point for point in ceiling["points"] if point["theft"]]
        if points:
            best = max(points, key=lambda point: point["theft"]["value"])
            yield _row(document, ceiling["title"], "a ceiling", None, best, ceiling["title"])


def _row(
    document: dict[str, Any], title: str, label: str, value: Any, best: dict[str, Any], what: str
) -> str:
    price = best["price"]
    flops = "" if not price["flops"] else f"{price['flops'] / 1e15:.1f}"
    numbers = f"{price['unlabelled']} | {price['labelled']} | {price['seconds']:.0f} | {flops}"
    worth = f"{both(value)} | {both(best['theft'])}"
    return f"| {title} | {label} | {worth} | {numbers} | {_peak(document, what)} |"


def _stealer(document: dict[str, Any]) -> Iterator[str]:
    for scenario in document.get("scenarios", []):
        yield (
            f"`python benchmarks/audit_time.py stealer`. {scenario['what']} "
            f"{scenario['seconds']:.0f} s, peak {_peak(document, scenario['title'])} GB."
        )
        yield ""
        yield "| model | codes told |"
        yield "| --- | --- |"
        for row in scenario["rows"]:
            found = row["exact_match"]
            told = f"{100 * found['accuracy']:.0f} %"
            between = f"{100 * found['low']:.0f} to {100 * found['high']:.0f} %"
            yield f"| {row['name']} | {told} ({between}) |"
        yield ""
        for control in scenario["controls"]:
            state = "holds" if control["passed"] else "**fails**"
            yield f"- {control['title']}: {control['figure']}, {state}."
