"""A section for a model card: the verdict and its price, in GitHub's Markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from unmergeable.auditing.page import formatting as words
from unmergeable.auditing.report.check import check
from unmergeable.auditing.report.queries import Reading
from unmergeable.auditing.report.schema import Cell, Control, Scenario, Verdict


def render_markdown(document: Mapping[str, Any]) -> str:
    """The section, from its own second-level heading on.

    Raises:
        InputError: the document does not follow the schema.
    """
    report = check(document)
    reading = Reading(report)
    parts = [
        "## Merge audit",
        f"**{_plain(report['verdict']['sentence'])}**",
        *_why(report["verdict"]),
        *_warning(reading),
        _key_figures(reading),
        "V is the worst task's share of what its expert gained over the base, for the best "
        "coefficients found, with a 95 % interval. Theft is V after the attack over V of the best "
        "merge of the open model.",
        "### Attacks",
        _attacks(reading),
        *_ceilings(reading),
        *(part for scenario in report.get("scenarios", []) for part in _scenario(scenario)),
        "### Controls",
        _controls(report["controls"]) or "None were run.",
        "### Red flags",
        _list(
            f"**{flag['severity']}: {_plain(flag['name'])}.** {_plain(flag['what'])}"
            for flag in sorted(report["flags"], key=lambda flag: flag["severity"] != "red")
        )
        or "None found.",
        "### Not run",
        _list(f"{_plain(each['what'])}: {_plain(each['why'])}" for each in report["not_run"])
        or "Nothing was left out.",
        "### How it was measured",
        _measured(reading),
        _fenced(report["provenance"]["command"]),
    ]
    return "\n\n".join(parts) + "\n"


def _why(verdict: Verdict) -> list[str]:
    """Reasons, and what would decide it; that it is broken is reason enough."""
    if verdict["answer"] == "broken":
        return []
    parts = [("Why:", verdict["reasons"]), ("What would decide it:", verdict["needs"])]
    return [part for head, told in parts if told for part in (head, _list(map(_plain, told)))]


def _warning(reading: Reading) -> list[str]:
    failed = sum(not control["passed"] for control in reading.report["controls"])
    if not failed:
        return []
    return [
        f"{words.plural(failed, 'control')} failed: what follows may be a fault of the tools and "
        "not a merit of the defence."
    ]


def _key_figures(reading: Reading) -> str:
    def row(name: str, cell: Cell | None) -> list[str]:
        if cell is None:
            return [name, words.NONE, "not measured"]
        return [name, words.both(cell["value"]), reading.who(cell)]

    theft = reading.report["verdict"]["theft"]
    rows = [
        row("V, open model", reading.open),
        row("V, protected, as released", reading.released),
        row("V, after the best attack", reading.attacked),
        ["theft by that attack", words.both(theft), ""],
        ["price of that attack", words.cost(reading.price), ""],
    ]
    return _table(["", "figure", "how"], rows, right={1})


def _attacks(reading: Reading) -> str:
    rows = []
    for column in reading.columns():
        cell, name = column.best, f"{column.group}: {column.title}"
        if cell is None:
            rows.append([name, "none could be measured", *[words.NONE] * 2, "", words.NONE])
            continue
        rows.append(
            [
                name,
                reading.methods[cell["method"]]["title"],
                words.both(cell["value"]),
                words.both(cell["theft"]),
                words.NONE if column.subject == "open" else words.cost(column.price),
                reading.training(column.attack),
            ]
        )
    heads = ["model", "best merge", "V", "theft", "price", "settings that won"]
    return _table(heads, rows, right={2, 3})


def _ceilings(reading: Reading) -> list[str]:
    rows = [
        [ceiling["title"], words.both(point["theft"]), words.cost(point["price"])]
        for ceiling in reading.report["price_curve"]["ceilings"]
        for point in ceiling["points"]
    ]
    if not rows:
        return ["The ceilings, distilling or fine-tuning the release, were not measured."]
    return [
        "What open weights always allow, at the prices tried:",
        _table(["ceiling", "theft", "price"], rows, right={1}),
    ]


def _scenario(scenario: Scenario) -> list[str]:
    rows = [[row["name"], words.score(row["exact_match"])] for row in scenario["rows"]]
    return [
        f"### {_plain(scenario['title'])}",
        _plain(scenario["what"]),
        _table(["model", "told, by exact match"], rows, right={1}),
        _controls(scenario["controls"]),
    ]


def _controls(controls: Sequence[Control]) -> str:
    return _list(
        f"{'passed' if control['passed'] else '**failed**'}: {_plain(control['title'])}"
        + (f" ({_plain(control['figure'])})" if control["figure"] else "")
        for control in controls
    )


def _measured(reading: Reading) -> str:
    report, run = reading.report, reading.report["provenance"]
    subject, machine = report["subject"], report["provenance"]["machine"]
    tasks = "; ".join(
        f"{task['title']} ({task['of']}, {task['items'].get('test', 0):,} test items)"
        for task in report["tasks"]
    )
    where = machine["processor"] or "unknown processor"
    if machine["cores"]:
        where += f", {words.plural(machine['cores'], 'core')}"
    rows = [
        ["protected", subject["protected"]["name"]],
        ["defence", subject["protected"]["defence"] or words.NONE],
        ["base", subject["base"]["name"]],
        ["peers", ", ".join(peer["name"] for peer in subject["peers"])],
        ["tasks", tasks],
        ["preset, seed", f"{run['preset']}, {run['seed']}"],
        ["run", f"{run['started']}, {words.seconds(run['seconds'])}"],
        ["machine", f"{where}, {machine['accelerator'] or 'no accelerator'}"],
        ["versions", ", ".join(f"{name} {found}" for name, found in run["versions"].items())],
    ]
    return _table(["", ""], rows)


def _table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], right: set[int] | None = None
) -> str:
    rule = ["---:" if index in (right or ()) else "---" for index in range(len(heads))]
    lines = [heads, rule, *([_plain(text) for text in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _list(items: Any) -> str:
    return "\n".join(f"- {item}" for item in items)


def _plain(text: str) -> str:
    """Text that GitHub shows as it is: on one line, nothing in it a mark-up."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&$!])", r"\\\1", " ".join(text.split()))


def _fenced(text: str) -> str:
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"
