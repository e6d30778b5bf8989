"""Writes the page of results and its figures: everything on it is worked out from artefacts.

Each suite has a part of its own. Suites may be measured in different cache folders, on different
machines: a part whose artefacts are not at hand stays as the page has it.
"""

from __future__ import annotations

import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unmergeable.bench.field import figures, index, tables
from unmergeable.bench.field.answer import answer
from unmergeable.bench.field.columns import CROWD_GROUP, PAIR_GROUP
from unmergeable.bench.field.results import Results
from unmergeable.bench.field.suites import SUITES
from unmergeable.checkpoint.markdown_sections import between, part
from unmergeable.errors import InputError
from unmergeable.machine import cores

FILE = "results.md"

_HEAD = """\
# Results of the field benchmark

Written by `{command}`; nothing on this page is typed by hand. The short codes behind figures are
the artefacts that they were worked out from: files of that name in the cache folder's
`field/cells`, or folders in `field/models`, each named after the hash of its inputs.

**V** is what a merge is worth: the worst task's share of what its expert gained over the base under
that expert's head or label words, 0 to 1, with a 95 % bootstrap interval over test items. For every
merge method the coefficients are chosen on validation items, from 0.15 to 2.0; of several methods
or attacks the best is shown, which flatters the thief a little. ≥ marks the best of cells of which
some have not been measured yet. ‡ marks our reconstruction of a defence whose code or full paper we
did not have. † marks merge methods that keep a set of weights per task and count for nothing:
anyone who keeps that much may keep both models whole. Prices are of the attack: seconds on the
machine that is named, items used; no attack knows the key or the unprotected expert.
Hyper-parameters are each paper's own; none was tuned. Heads are never merged. A suite has one pair
of tasks: with another peer, what a defence leaves to a merge tool can be another figure. Suites may
have been measured on different machines; each says on which."""

_MEASURED = """\
Measured with {software}, on {machine}. Own code: {code}. While cells were measured, the machine's
load average per processor was {median:.1f} in the median and {most:.1f} at most: from about 1 on,
seconds are upper bounds. Training-time defences ran with seeds {seeds}, all else with seed 0."""


def write(
    cache: Path,
    out: Path,
    *,
    quick: bool = False,
    refused: Mapping[str, str] | None = None,
    command: str = "unmergeable bench field",
    suites: Sequence[str] = tuple(SUITES),
) -> Path:
    """Writes `results.md` and its figures into a folder.

    Args:
        cache: where the artefacts are.
        out: the folder.
        quick: whether a suite's quick run is shown rather than its full one, where both are there.
        refused: why suites could not be run, by name.
        command: what was typed.
        suites: which to show, as far as they were run; one that only the page in `out` knows stays.

    Returns:
        The page.
    """
    page, refused = out / FILE, refused or {}
    known = page.read_text(encoding="utf-8") if page.exists() else ""
    parts, left = [_HEAD.format(command=command)], []
    for name in suites:
        begin, end = (f"<!-- suite {name}: {place} -->" for place in ("begin", "end"))
        document = index.read(cache, name, quick) or index.read(cache, name, not quick)
        if document is None:
            content = between(known, begin, end)
        else:
            content = "\n\n".join(_suite(name, Results(document, cache), out))
        if content is not None:
            parts.append(part(begin, end, content))
        elif name not in refused:
            left.append(f"- {name}: has not been run.")
    if len(parts) == 1:
        parts.append("No suite has been run yet.")
    if left := [*(f"- {name}: {reason}" for name, reason in refused.items()), *left]:
        parts += ["## Suites left out", "\n".join(left)]
    out.mkdir(parents=True, exist_ok=True)
    page.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return page


def excerpt(cache: Path, suite: str, folder: str) -> str:
    """One suite's figure, small table and three sentences, for the README.

    Args:
        cache: where the artefacts are.
        suite: which.
        folder: where the figures are, as the README's reader finds them.

    Raises:
        InputError: the suite was not run.
    """
    document = index.read(cache, suite, False) or index.read(cache, suite, True)
    if document is None:
        raise InputError(f"suite {suite} was not run in {cache}: there is nothing to show.")
    results = Results(document, cache)
    image = f"![V of each defence, on {results.index['title']}]({folder}/results-{suite}.svg)"
    quick = "; a quick run" if results.index["quick"] else ""
    legend = "‡: our reconstruction."
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
        f"## {name.capitalize()}: {results.index['title']}",
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
        machine=f"{platform.machine()}, {cores()} processors",
        code=", ".join(sorted({f"`{cell['software']['unmergeable']}`" for cell in cells})),
        median=statistics.median(busy),
        most=max(busy),
        seeds=", ".join(map(str, sorted(seeds))) or "none yet",
    )
