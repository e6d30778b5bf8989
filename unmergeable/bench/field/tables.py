"""The tables of the page, in GitHub's Markdown: each figure with its interval and its artefact."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from unmergeable.auditing.claims import known_claims
from unmergeable.auditing.controls import MERGEABLE
from unmergeable.bench.field.answer import codes, conclusion, price
from unmergeable.bench.field.columns import (
    CEILINGS,
    CROWD,
    CROWD_GROUP,
    METHODS,
    PAIR_GROUP,
    TITLES,
)
from unmergeable.bench.field.defences import NONE, FieldDefence
from unmergeable.bench.field.results import Cell, Figure, Results, routed

MISSING = "-"
SMALL, OURS = 5, "lock"  # rows of the README's table, and the one that is always there
LEARNED = 0.15  # an expert that gains less over the zero line makes V a coarse measure


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def tasks(results: Results) -> str:
    """Every task: the zero line, its expert, its items."""
    body = []
    groups = results.index["groups"]
    for name in dict.fromkeys((*groups[PAIR_GROUP], *groups[CROWD_GROUP])):
        about = results.index["tasks"][name]
        group = PAIR_GROUP if name in groups[PAIR_GROUP] else CROWD_GROUP
        at = groups[group].index(name)
        expert = "original" if at == 0 else f"peer {at}"
        low, high = (results.single(group, model, name) for model in ("base", expert))
        notes = [about["note"]] if about["note"] else []
        if low and high and high.accuracy - low.accuracy < LEARNED:
            notes.append(
                f"its expert gains {100 * (high.accuracy - low.accuracy):.1f} points only over the "
                "zero line: V on it is coarse"
            )
        items = about["items"]
        body.append(
            [
                f"{about['title']} (`{name}`)",
                *(
                    MISSING if s is None else _accuracy(s.accuracy, *s.interval)
                    for s in (low, high)
                ),
                f"{items['train']} / {items['validation']} / {items['test']}",
                f"`{about['hash'][:8]}`",
                f"`{about['folder']}`",
                "; ".join(notes) or MISSING,
            ]
        )
    head = [
        "task",
        "zero line: the base",
        "its expert",
        "items: train / validation / test",
        "data",
        "expert",
        "note",
    ]
    return table(head, body)


def controls(results: Results) -> str:
    """The positive controls of each group."""
    body = [
        [group, name, "yes" if passed else "**NO**", str(measured)]
        for group, name, passed, measured in checked(results)
    ]
    return table(["merges", "what must hold", "holds", "measured"], body)


def checked(results: Results) -> Iterator[tuple[str, str, bool, Entry]]:
    """Every positive control: its group, what must hold, whether it does, and its figure."""
    for group in (PAIR_GROUP, CROWD_GROUP):
        cell = results.singles(group)
        for control in cell["controls"] if cell else ():
            yield group, control["title"], control["passed"], Entry(control["figure"])
    if opened := results.best(NONE, ("none",)):
        what = "the unprotected expert merges well with the same tools"
        yield PAIR_GROUP, what, opened.value >= MERGEABLE, entry(opened)


HEADS = (
    "own accuracy lost, points",
    "V open",
    "V protected",
    "V, best attack without data",
    "V, best attack with data, and its price",
    "ceiling, no merge, and its price",
    "owner's cost",
)


def main(results: Results) -> str:
    """One row a defence: the benchmark's columns."""
    body = [[title(row), *map(str, entries(results, row))] for row in results.defences]
    return table(["defence", *HEADS], body)


def entries(results: Results, defence: FieldDefence) -> list[Entry]:
    """A defence's row, under `HEADS`."""
    released = entry(results.best(defence, ("none",)))
    if refused := _refused(results, defence):
        released = Entry(refused)
    return [
        _points(results.lost(defence)),
        entry(results.best(NONE, ("none",))),
        released,
        entry(results.best(defence, ("none", *results.data_free))),
        entry(results.best(defence, results.with_data), priced=True),
        entry(results.best(defence, CEILINGS), priced=True),
        _cost(results, defence),
    ]


def small(results: Results) -> str:
    """The README's table: five defences with three figures each, without artefacts.

    No defence, our default lock, and the three others that leave a thief least after the best
    attack without data, by the upper end of what it takes.
    """
    freed = {row.name: results.best(row, ("none", *results.data_free)) for row in results.defences}
    fixed = [row for row in results.defences if row is NONE or row.name == OURS]
    others = [row for row in results.defences if row not in fixed and not row.control]
    others.sort(key=lambda row: _high(freed[row.name]))
    named = {row.name for row in (*fixed, *others[: SMALL - len(fixed)])}
    body = []
    for defence in results.defences:
        if defence.name not in named:
            continue
        released = results.best(defence, ("none",))
        cells = [
            entry(results.best(NONE, ("none",))).bare,
            "refused" if _refused(results, defence) else entry(released).bare,
            entry(results.best(defence, results.data_free)).bare,
        ]
        body.append([title(defence), *cells, conclusion(results, defence) or MISSING])
    return table(["defence", "V open", "V protected", "V after alignment", "so it"], body)


def claims(results: Results) -> str:
    """What the sources claim, beside what was measured."""
    body = []
    for defence, claim, found, opened in claimed(results):
        measured = str(found)
        if opened is not None:
            measured = f"V = {found}, of {opened} open"
        elif found.figure is not None:
            measured = f"{found} points lost"
        body.append([title(defence), claim["claim"], claim["claimed"], measured, claim["source"]])
    return table(["defence", "claim", "claimed figure", "measured here", "source"], body)


def claimed(
    results: Results,
) -> Iterator[tuple[FieldDefence, Mapping[str, str], Entry, Entry | None]]:
    """Every claim with what was measured, and V of the open merge where it is one of V."""
    opened = entry(results.best(NONE, ("none",)))
    for claim in known_claims():
        # On the row of the defence alone; where there is none, on the main one of its rows.
        rows = [row for row in results.defences if row.of == claim["defence"]]
        alone = [row for row in rows if row.parts == (row.of,)]
        defence = next(iter(alone or [row for row in rows if row.main]), None)
        if defence is None:
            continue
        if claim["measure"] == "own":
            yield defence, claim, _points(results.lost(defence)), None
            continue
        attacks = ("none",) if claim["measure"] == "released" else results.data_free
        refused = _refused(results, defence) if attacks == ("none",) else ""
        if refused:
            yield defence, claim, Entry(refused), None
        else:
            yield defence, claim, entry(results.best(defence, attacks)), opened


CROWD_HEADS = ("V protected", "V, best attack without data", "V, best attack with data")


def crowd(results: Results) -> str:
    """Merges of many models."""
    body = [[title(row), *map(str, found)] for row, found in crowd_entries(results)]
    return table(["defence", *CROWD_HEADS], body) if body else ""


def crowd_entries(results: Results) -> Iterator[tuple[FieldDefence, list[Entry]]]:
    """The rows that met merges of many models, under `CROWD_HEADS`."""
    for defence in results.defences:
        released, freed, taken = (
            results.best(defence, attacks, CROWD_GROUP)
            for attacks in (("none",), ("none", *results.data_free), results.with_data)
        )
        if released or freed or taken:
            refused = _refused(results, defence, CROWD_GROUP)
            first = Entry(refused) if refused else entry(released)
            yield defence, [first, entry(freed), entry(taken, priced=True)]


def grid(results: Results, defence: FieldDefence, group: str) -> str:
    """Every merge method under every attack on one defence, seed 0."""
    body = []
    for method in METHODS if group == PAIR_GROUP else CROWD:
        cells = [results.cell(group, defence, 0, attack, method) for attack in results.attacks]
        if any(cells):
            mark = " †" if routed(method) else ""
            body.append([f"`{method}`{mark}", *(_cell(results, group, c) for c in cells)])
    if not body:
        return ""
    return table(["merge method", *map(results.attack_title, results.attacks)], body)


def ceilings(results: Results) -> str:
    """What distillation and fine-tuning of the release reach."""
    body = []
    for defence in results.defences:
        figures = [results.best(defence, (ceiling,)) for ceiling in CEILINGS]
        if any(figures):
            body.append([title(defence), *(str(entry(figure, priced=True)) for figure in figures)])
    return table(["defence", *(TITLES[name] for name in CEILINGS)], body) if body else ""


def failures(results: Results) -> str:
    """Refused defences and cells without a figure, each with its reason."""
    reasons: dict[str, list[str]] = {}
    for name, about in results.index["defended"].items():
        if about["refused"]:
            reasons.setdefault(about["refused"], []).append(name)
    for where, reason in results.failures():
        reasons.setdefault(reason, []).append(where)
    lines = []
    for reason, places in reasons.items():
        first = ", ".join(f"`{where.rstrip('/')}`" for where in places[:3])
        more = f" and {len(places) - 3} more" if len(places) > 3 else ""
        lines.append(f"- {first}{more}: {' '.join(reason.split())}")
    return "\n".join(lines)


def costs(results: Results) -> str:
    """What measuring took, by kind of cell; cells that were looked up elsewhere took little."""
    took: dict[tuple[str, str], list[Mapping[str, float]]] = {}
    for at, cell in results.placed():
        if "took" in cell:
            took.setdefault((at.group, at.attack), []).append(cell["took"])
    if not took:
        return ""
    every = [one for found in took.values() for one in found]
    kinds = [
        (group, results.attack_title(attack), found) for (group, attack), found in took.items()
    ]
    body = [
        [
            group,
            kind,
            f"{len(found)}",
            f"{statistics.median(one['cpu'] for one in found):.1f}",
            f"{sum(one['cpu'] for one in found) / 60:.1f}",
            f"{sum(one['wall'] for one in found) / 60:.1f}",
        ]
        for group, kind, found in [*kinds, ("all", "", every)]
    ]
    head = ["merges", "kind of cell", "cells", "processor seconds of a cell, median"]
    made = sum(about["seconds"] for about in results.index["defended"].values()) / 60
    return (
        table([*head, "minutes in all, processor", "wall"], body) + "\n\nMinutes of one worker, "
        f"one cell after the other. The protected models took {made:.1f} such minutes before."
    )


def title(defence: FieldDefence) -> str:
    """A defence's name in a table; reconstructions are marked."""
    return f"{defence.title}{' ‡' if defence.reconstructed else ''}"


@dataclass(frozen=True)
class Entry:
    """A figure in a table, with where it came from.

    Attributes:
        text: the figure, or why there is none.
        how: how it came about, a clause each, in Markdown.
        figure: that it is of, if there is one.
        interval: of the figure.
    """

    text: str = MISSING
    how: tuple[str, ...] = ()
    figure: Figure | None = None
    interval: str = ""

    @property
    def bare(self) -> str:
        """The figure with its interval, and no more."""
        return f"{self.text} ({self.interval})" if self.interval else self.text

    def __str__(self) -> str:
        how = [*self.how, *([codes(self.figure)] if self.figure else [])]
        return f"{self.bare}<br><sub>{'; '.join(how)}</sub>" if how else self.bare


def entry(figure: Figure | None, priced: bool = False) -> Entry:
    """A figure with its interval, how it came about, and its price."""
    if figure is None:
        return Entry()
    how = [f"`{figure.method}`"] if figure.method else []
    how += [figure.title] if figure.attack not in ("", "none") else []
    how += [price(figure)] if priced else []
    if len(figure.seeds) > 1:
        each = ", ".join(f"{seed}: {value:.2f}" for seed, value in figure.seeds.items())
        how.append(f"seeds {each}")
    bound = "≥ " if figure.partial else ""
    ends = f"{figure.low:.2f} to {figure.high:.2f}"
    return Entry(f"{bound}{figure.value:.2f}", tuple(how), figure, ends)


def _high(figure: Figure | None) -> float:
    """The upper end of a theft; what is not known stands last."""
    return math.inf if figure is None or figure.theft is None else figure.theft.high


def _cell(results: Results, group: str, cell: Cell | None) -> str:
    if cell is None:
        return MISSING
    if cell["reason"]:
        return "failed"
    value = results.worth(group, cell)
    if value is None:
        return MISSING
    found = value.estimate
    return f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f}) <sub>`{cell['key'][:8]}`</sub>"


def _points(lost: Figure | None) -> Entry:
    if lost is None:
        return Entry()
    ends = f"{100 * lost.low:+.1f} to {100 * lost.high:+.1f}"
    return Entry(f"{100 * lost.value:+.1f}", figure=lost, interval=ends)


def _accuracy(value: float, low: float, high: float) -> str:
    return f"{100 * value:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def _cost(results: Results, defence: FieldDefence) -> Entry:
    about = results.index["defended"].get(f"{defence.name}/0")
    if about is None or about["refused"] or defence is NONE:
        return Entry()
    share = about["size"] / results.index["open_size"]
    return Entry(f"{about['seconds']:.0f} s, size × {share:.2f}", (f"`{about['artefact']}`",))


def _refused(results: Results, defence: FieldDefence, group: str = PAIR_GROUP) -> str:
    """Words for a released model that every merge tool refused; empty if there is a figure."""
    if results.best(defence, ("none",), group) is not None:
        return ""
    cells = [results.cell(group, defence, 0, "none", method) for method in METHODS]
    if any(cell is not None and cell["reason"] for cell in cells):
        return "refused by merge tools"
    return ""
