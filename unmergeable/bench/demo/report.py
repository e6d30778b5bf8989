"""The demonstration's table, and the sentences that go with it: all computed from its result."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import RenderableType

WIDTH = 100
# The columns: what is merged, and after which attack.
STATES = (("open", "none"), ("protected", "none"), ("protected", "align"))


def report(result: dict[str, Any]) -> list[RenderableType]:
    """A result of [`run`][unmergeable.bench.demo.run.run] for people, at most 100 columns wide.

    The tables are valid Markdown.
    """
    from rich import box
    from rich.table import Table

    audit = result["audit"]
    # A Markdown table has no rule below it and none between rows.
    models = Table(box=box.MARKDOWN)
    models.add_column("model", no_wrap=True)
    for task in audit["tasks"]:
        models.add_column(task["title"], justify="right", no_wrap=True)
    for name, title in (("base", "base"), ("expert", "its expert"), ("protected", "locked expert")):
        models.add_row(title, *(_score(task["scores"][name]) for task in audit["tasks"]))
    merges = Table(box=box.MARKDOWN)
    for name in ("merge method", "V, open", "V, locked", "V, locked, then aligned"):
        merges.add_column(name, justify="left" if name == "merge method" else "right", no_wrap=True)
    for method in audit["methods"]:
        merges.add_row(method["title"], *(_value(audit, method["name"], s) for s in STATES))
    sizes = " and ".join(str(task["items"]["test"]) for task in audit["tasks"])
    owner, peer = audit["tasks"]
    seconds = ", ".join(f"{stage} {spent:.0f}" for stage, spent in result["seconds"].items())
    above = (
        f"{result['model']['name']}. Accuracy on {sizes} held-out items, with 95 % intervals. "
        f"The owner's expert is trained on: {owner['title']}; the peer's on: {peer['title']}."
    )
    between = (
        "V is what the best merge by a method is worth: the worse task's share of what its expert "
        "gained over the base, 0 to 1, with a bootstrap 95 % interval."
    )
    below = (
        verdict(result),
        *(f"Control: {c['title']}: {c['figure']}." for c in audit["controls"] if c["passed"]),
        f"Seconds: {seconds}. Models run: {audit['provenance']['evaluations']}; other scores "
        f"looked up. The whole report: {result['files']['html']}",
    )
    fill = [textwrap.fill(text, WIDTH, break_long_words=False) for text in below]
    return [
        textwrap.fill(above, WIDTH),
        models,
        "\n" + textwrap.fill(between, WIDTH),
        merges,
        *("\n" + text for text in fill),
    ]


def verdict(result: dict[str, Any]) -> str:
    """The outcome in plain words."""
    lock = result["lock"]
    same = (
        "The locked expert computes what the open one does"
        if lock["same"]
        else "The locked expert does NOT compute what the open one does"
    )
    difference = "not finite" if lock["difference"] is None else f"{lock['difference']:.0e}"
    return (
        f"{same} (largest difference {difference} of the largest logit). "
        f"{result['audit']['verdict']['sentence']} And anyone who may run a model may also "
        "distil it or fine-tune it."
    )


def _score(score: dict[str, Any]) -> str:
    return f"{score['accuracy']:.1%} ({score['low']:.1%}-{score['high']:.1%})".replace("%-", "-")


def _value(audit: dict[str, Any], method: str, state: tuple[str, str]) -> str:
    for cell in audit["cells"]:
        if (cell["subject"], cell["attack"], cell["method"]) == (*state, method):
            value = cell["value"]
            if value is None:
                return str(cell["status"])
            return f"{value['value']:.2f} ({value['low']:.2f}-{value['high']:.2f})"
    return "not run"
