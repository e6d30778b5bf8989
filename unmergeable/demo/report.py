"""The demonstration's table, and the sentences that go with it: all computed from its result."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

WIDTH = 100


def report(result: dict[str, Any]) -> list[RenderableType]:
    """What people see of a result of [`run`][unmergeable.demo.run.run]; at most 100 columns wide.

    The table is valid Markdown.
    """
    from rich import box
    from rich.table import Table

    tasks, rows = result["tasks"], result["rows"]
    # A Markdown table has no rule below it and none between rows.
    table = Table(box=box.MARKDOWN)
    table.add_column("model", no_wrap=True)
    for task in tasks:
        table.add_column(task["title"], justify="right", no_wrap=True)
    table.add_column("merge value V", justify="right", no_wrap=True)
    for row in rows:
        table.add_row(row["name"], *(_cell(row["scores"][t["name"]]) for t in tasks), _value(row))
    sizes = " and ".join(str(rows[0]["scores"][task["name"]]["total"]) for task in tasks)
    seconds = ", ".join(f"{stage} {spent:.0f}" for stage, spent in result["seconds"].items())
    paragraphs = (
        f"{result['model']['name']}. Accuracy on {sizes} held-out items, with 95 % intervals. "
        f"The owner's expert is trained on: {tasks[0]['title']}; the peer's on: "
        f"{tasks[1]['title']}. V is the worse task's share of what its expert gained over the "
        "base, 0 to 1, with a bootstrap 95 % interval.",
        verdict(result),
        *_addition(rows, tasks),
        attack(result),
        f"Seconds: {seconds}. Models run: {result['measured']}; other scores looked up.",
    )
    return [table, *("\n" + textwrap.fill(text, WIDTH) for text in paragraphs)]


def verdict(result: dict[str, Any]) -> str:
    """The outcome in plain words."""
    rows, lock = result["rows"], result["lock"]
    same = (
        "The locked expert computes what the open one does"
        if lock["same"]
        else "The locked expert does NOT compute what the open one does"
    )
    difference = "not finite" if lock["difference"] is None else f"{lock['difference']:.0e}"
    back = (
        "Unlocking gives the expert's weights back bit for bit, and so its merges."
        if lock["unlocked_identical"]
        else "Unlocking does NOT give the expert's weights back bit for bit."
    )
    return (
        f"{same} (largest difference {difference} of the largest logit). The best merge of the "
        f"open expert: {_best(rows, 'open')}. The best of the locked one: "
        f"{_best(rows, 'locked')}. {back}"
    )


def attack(result: dict[str, Any]) -> str:
    """What alignment leaves of the lock, in plain words."""
    seconds, residual = result["attack"]["seconds"], result["attack"]["residual"]
    left = (
        "gave the expert's weights back bit for bit"
        if residual == 0
        else f"came within {residual:.1%} of the expert's task vector"
    )
    return (
        "So far this is about unmodified merge tools. A thief who aligns the locked model to its "
        f"public base first needed {seconds:.0f} s here, no key and no data, and {left}. The best "
        f"merge of the aligned model: {_best(result['rows'], 'aligned')}. And whoever may run a "
        "model may also distil it or fine-tune it."
    )


def _best(rows: list[dict[str, Any]], state: str) -> str:
    found = [row for row in rows if row["state"] == state and row["value"] is not None]
    if not found:
        return "no value, as an expert learned nothing"
    best = max(found, key=lambda row: (row["value"], row["interval"][1]))
    low, high = best["interval"]
    return f"V = {best['value']:.2f} ({low:.2f} to {high:.2f}), by {best['method']}"


def _addition(rows: list[dict[str, Any]], tasks: list[dict[str, Any]]) -> list[str]:
    """What adding a locked task vector gives, if that was measured."""
    for row in rows:
        if row["state"] == "locked" and row["whole_vectors"] and row["shares"] is not None:
            mine, theirs = (row["shares"][task["name"]] for task in tasks)
            return [
                f"On the locked model, {row['method']} starts from that model itself, since base + "
                "(locked - base) = locked, and adds the peer's changes in foreign coordinates. "
                f"Here it has {mine:.0%} of the owner's gain and {theirs:.0%} of the peer's: what "
                "it holds of the owner's skill was in the published model already."
            ]
    return []


def _cell(score: dict[str, Any]) -> str:
    return f"{score['accuracy']:.1%} ({score['low']:.1%}-{score['high']:.1%})".replace("%-", "-")


def _value(row: dict[str, Any]) -> str:
    if row["value"] is None:
        return "none"
    low, high = row["interval"]
    return f"{row['value']:.2f} ({low:.2f}-{high:.2f})"
