"""Writes the page of results and its figures: everything on it is worked out from cells.

Each run of a suite has a part of its own, made from the file that keeps its cells beside the page;
a part without such a file stays as the page has it.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unmergeable.bench.field import figures, html, kept, tables
from unmergeable.bench.field.answer import answer
from unmergeable.bench.field.columns import CROWD_GROUP, PAIR_GROUP
from unmergeable.bench.field.results import Results
from unmergeable.bench.field.suites import SUITES
from unmergeable.checkpoint.markdown_sections import between, part

FILE = "results.md"

_HEAD = """\
# Results of the field benchmark

Written by `{command}`; nothing on this page is typed by hand. The short codes behind figures are
the cells that they were worked out from, each named after the hash of its inputs: lines of
`results-SUITE.jsonl.gz` beside this page, from which it is written. Other names are of models.
[The same to sort and to filter]({page}), with a price curve for each defence.

{about}"""

_ABOUT = """\
**V** is what a merge is worth: the worst task's share of what its expert gained over the base under
that expert's head or label words, 0 to 1, with a 95 % bootstrap interval over test items and, where
a defence was trained with several seeds, over seeds and items together. For every merge method the
coefficients are chosen on validation items, from 0.15 to 2.0; of several methods or attacks the
best is shown, which flatters the thief a little. Whoever looks many times sees the luckiest first:
so the interval of a best ends where the highest of all those intervals ends that it is the best of;
where that is another cell's, its code stands behind *to*.
Shares in the sentences are of what the best open merge is worth, paired with it in each draw. A
defence *holds* only where the upper end of that is below half, it *falls* where the share itself is
half or more, and is *undecided* between the two. ≥ marks the best of cells of which
some have not been measured yet. ‡ marks our reconstruction of a defence whose code or full paper we
did not have. † marks merge methods that keep a set of weights per task and count for nothing:
anyone who keeps that much may keep both models whole. Prices are of the attack: seconds on the
machine that is named, items used; no attack knows the key or the unprotected expert.
Hyper-parameters are each paper's own; none was tuned. Heads are never merged. A suite has one pair
of tasks: with another peer, what a defence leaves to a merge tool can be another figure. Suites may
have been measured on different machines; each says on which."""

_WITHOUT = """\
These parts of the page are older than such files: {suites}. Their cells are kept nowhere that is
known, so that their codes name nothing any more; they stay until the suite is measured again."""

_MEASURED = """\
Measured with {software}, on {machine}. Own code: {code}. While cells were measured, the machine's
load average per processor was {median:.1f} in the median and {most:.1f} at most: from about 1 on,
seconds are upper bounds. Training-time defences ran with seeds {seeds}, all else with seed 0."""


def write(
    out: Path,
    *,
    refused: Mapping[str, str] | None = None,
    command: str = "unmergeable bench field",
    suites: Sequence[str] = tuple(SUITES),
) -> Path:
    """Writes `results.md`, its figures and `results.html` from the cells kept in the same folder.

    A part of the Markdown whose cells are not kept there stays as it is.

    Args:
        out: the folder.
        refused: why suites could not be run, by name.
        command: what was typed.
        suites: which stand first; others that the folder holds follow.

    Returns:
        The page in Markdown.

    Raises:
        InputError: a file of cells that is damaged.
    """
    page, refused = out / FILE, refused or {}
    known = page.read_text(encoding="utf-8") if page.exists() else ""
    there = kept.names(out)
    first = [name for suite in suites for name in (suite, kept.name_of(suite, True))]
    parts, left, without = [], [], []
    runs: dict[str, Results] = {}
    for name in dict.fromkeys((*first, *there)):
        begin, end = (f"<!-- suite {name}: {place} -->" for place in ("begin", "end"))
        if name in there:
            runs[name] = Results(kept.read(kept.path_of(out, name)))
            content: str | None = "\n\n".join(_suite(name, runs[name], out))
        elif content := between(known, begin, end):
            without.append(name)
        if content:
            parts.append(part(begin, end, content))
    shown = {*there, *without}
    for name in suites:
        if not shown & {name, kept.name_of(name, True)} and name not in refused:
            left.append(f"- {name}: has not been run.")
    if not parts:
        parts.append("No suite has been run yet.")
    if left := [*(f"- {name}: {reason}" for name, reason in refused.items()), *left]:
        parts += ["## Suites left out", "\n".join(left)]
    head = _HEAD.format(command=command, page=html.FILE, about=_ABOUT)
    if without:
        head += "\n\n" + _WITHOUT.format(suites=", ".join(without))
    out.mkdir(parents=True, exist_ok=True)
    page.write_text("\n\n".join([head, *parts]) + "\n", encoding="utf-8")
    measured = {name: _measured(results) for name, results in runs.items()}
    text = html.page(runs, measured, _ABOUT, command, ", ".join(without))
    (out / html.FILE).write_text(text, encoding="utf-8")
    return page


def excerpt(out: Path, suite: str, folder: str) -> str:
    """One suite's figure, table of five rows and three sentences, for the README.

    Args:
        out: where its cells are kept.
        suite: which.
        folder: where the figures are, as the README's reader finds them.

    Raises:
        InputError: its cells are not kept there.
    """
    results = Results(kept.read(kept.path_of(out, suite)))
    image = f"![V of each defence, on {results.index['title']}]({folder}/results-{suite}.svg)"
    quick = "; a quick run" if results.index["quick"] else ""
    legend = (
        "Rows: no defence, the lock, and the three others that leave a thief least after an attack "
        "without data. ‡: our reconstruction. Codes in the sentences name cells."
    )
    if results.counts[0] < results.counts[1] or quick:
        legend = f"≥: the best of what has been measured so far{quick}. {legend}"
    return "\n\n".join([image, tables.small(results), legend, " ".join(answer(results))])


def _suite(name: str, results: Results, out: Path) -> list[str]:
    done, planned = results.counts
    quick = " (a quick run)" if results.index["quick"] else ""
    pair, crowd = (results.index["groups"][group] for group in (PAIR_GROUP, CROWD_GROUP))
    many = ""
    if len(crowd) > len(pair):
        many = f"; merges of many models take {', '.join(f'`{task}`' for task in crowd)}"
    parts = [
        f"## {results.index['suite'].capitalize()}: {results.index['title']}{quick}",
        "### In three sentences",
        " ".join(answer(results)),
        "### Tasks, controls and defences",
        f"{done} of {planned} cells are measured{quick}. "
        f"The owner's task is `{pair[0]}`, the peer's `{pair[1]}`{many}.",
        tables.tasks(results),
        tables.controls(results),
    ]
    image = out / f"results-{name}.svg"
    if figures.defences(results, image):
        parts.append(f"![V of each defence, on {results.index['title']}]({image.name})")
    parts.append(tables.main(results))
    image = out / f"results-{name}-price.svg"
    if figures.prices(results, image):
        parts.append(f"![What theft costs, on {results.index['title']}]({image.name})")
    for heading, body in (
        ("What is claimed, and what was measured", tables.claims(results)),
        (f"Merges of {len(crowd)} models", tables.crowd(results)),
        ("The two ceilings", tables.ceilings(results)),
        ("Failures", tables.failures(results)),
        ("What measuring took", tables.costs(results)),
    ):
        if body:
            parts += [f"### {heading}", body]
    details = []
    for defence in results.defences:
        for group, what in ((PAIR_GROUP, "two models"), (CROWD_GROUP, f"{len(crowd)} models")):
            if body := tables.grid(results, defence, group):
                head = f"<summary>{tables.title(defence)}, {what}</summary>"
                details.append(f"<details>{head}\n\n{body}\n\n</details>")
    if details:
        parts += ["### Every cell", *details]
    return [*parts, "### How it was measured", _measured(results)]


def _measured(results: Results) -> str:
    cells = results.measured()
    if not cells:
        return "Nothing yet."
    software = sorted(
        {
            ", ".join(f"{n} {v}" for n, v in cell["software"].items() if n != "unmergeable")
            for cell in cells
        }
    )
    seeds: set[int] = {
        seed for defence in results.defences if defence.trained for seed in results.seeds(defence)
    }
    busy: list[Any] = [cell["busy"] for cell in cells]
    return _MEASURED.format(
        software=" or ".join(software),
        machine=" and ".join(sorted({cell["machine"] for cell in cells})),
        code=", ".join(sorted({f"`{cell['software']['unmergeable']}`" for cell in cells})),
        median=statistics.median(busy),
        most=max(busy),
        seeds=", ".join(map(str, sorted(seeds))) or "none yet",
    )
