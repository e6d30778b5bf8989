"""What theft costs: each attack at its price, the best so far as a line, beside the ceilings.

A figure is drawn twice, for wide and for narrow screens, since scaled text would not be read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unmergeable.auditing.page import formatting as words
from unmergeable.auditing.page.svg import Box, Drawing, Linear, Log, Point

if TYPE_CHECKING:
    from unmergeable.auditing.report.schema import Ceiling, Estimate, Price, Theft

WIDE, NARROW = 960.0, 350.0

SECONDS = tuple(
    [(1e-3, "1 ms"), (0.01, "10 ms"), (0.1, "0.1 s"), (1.0, "1 s"), (10.0, "10 s")]
    + [(60.0, "1 min"), (600.0, "10 min"), (3600.0, "1 h"), (36e3, "10 h"), (36e4, "100 h")]
    + [(36.0 * 10**power, f"1e{power - 2} h") for power in range(5, 12)]
)
_CHEAPER = 2 / 3  # a weaker run of an attack is told apart if it takes at most that of the time


@dataclass(frozen=True)
class Figure:
    """One figure in both widths."""

    wide: str
    narrow: str


@dataclass(frozen=True)
class Curve:
    """What is drawn.

    Attributes:
        thefts: the attacks that are marked.
        names: of the marks, in the same order; short.
        frontier: the best so far; see `rising`.
        ceilings: what open weights always allow.
        titles: of attacks, by name.
    """

    thefts: Sequence[Theft]
    names: Sequence[str]
    frontier: Sequence[Theft]
    ceilings: Sequence[Ceiling]
    titles: Mapping[str, str]

    def drawn(self, width: float, height: float, kind: str) -> str:
        """An SVG of that size; of the kind "wide", with the attacks' titles."""
        prices = [theft["price"] for theft in (*self.thefts, *self.frontier)]
        prices += [point["price"] for ceiling in self.ceilings for point in ceiling["points"]]
        estimates = [theft["theft"] for theft in self.thefts]
        estimates += [point["theft"] for ceiling in self.ceilings for point in ceiling["points"]]
        tops = [edge or 0.0 for one in estimates if one for edge in (one["value"], one["high"])]
        drawing = Drawing(width, height, self.told, kind)
        spent = [price["seconds"] or 0.0 for price in prices]
        x = Log.over(spent, SECONDS, 40, width - 14)
        y = Linear(0.0, max([1.0, *tops]) * 1.06, height - 46, 34)
        drawing.axes(
            x, y, "theft (1 = worth as much as the open model)", "time of the attack (log)"
        )
        drawing.add("line", "full", x1=x.start, x2=x.end, y1=y(1), y2=y(1))

        def place(price: Price, estimate: Estimate | None) -> Point | None:
            value = estimate["value"] if estimate else None
            return None if value is None else (x(price["seconds"] or 0.0), y(value))

        runs = []
        for index, ceiling in enumerate(self.ceilings):
            style = f"c-ceiling{index % 2}"
            ordered = sorted(ceiling["points"], key=lambda point: point["price"]["seconds"] or 0.0)
            found = [(p, at) for p in ordered if (at := place(p["price"], p["theft"]))]
            drawing.path([at for _, at in found], f"curve {style}")
            drawing.cover([at for _, at in found])
            for point, at in found:
                _whisker(drawing, at, point["theft"], y, style)
                size = _size(point["price"]) - 1
                drawing.mark(shape(point["price"]), at, size, f"hollow {style}")
            if found:
                runs.append((ceiling["title"], found[-1][1]))
        steps: list[Point] = []
        for theft in self.frontier:
            if at := place(theft["price"], theft["theft"]):
                steps += [(at[0], steps[-1][1]), at] if steps else [at]
        if steps:
            steps.append((x.end, steps[-1][1]))
        drawing.path(steps, "curve best")
        drawing.cover(steps)
        marked = [
            (name, theft, at)
            for name, theft in zip(self.names, self.thefts, strict=True)
            if (at := place(theft["price"], theft["theft"]))
        ]
        for _, theft, at in marked:
            _whisker(drawing, at, theft["theft"], y, "c-attack")
            on = "c-attack" if theft in self.frontier else "hollow c-attack"
            drawing.mark(shape(theft["price"]), at, _size(theft["price"]), on)
        self._write(drawing, marked, runs, (x.start + 2, 16, width, y.start - 1))
        return str(drawing)

    def _write(
        self,
        drawing: Drawing,
        marked: list[tuple[str, Theft, Point]],
        runs: list[tuple[str, Point]],
        within: Box,
    ) -> None:
        """Names at all attacks, titles where there is room; those of the best so far first."""
        for name, theft, at in sorted(marked, key=lambda each: each[1] not in self.frontier):
            title = self.titles[theft["attack"]]
            long = f"{name}  {title}"
            texts = [name]
            if drawing.kind == "wide" and len(title) <= 40:
                texts = [f"{long}, {words.data(theft['price'])}", long, *texts]
            drawing.label(texts, at, "point", _size(theft["price"]) + 5, within)
        for title, at in runs:
            if drawing.kind == "wide":
                drawing.label([title, f"{title[:28]}…"], at, "ceiling", 12, within)

    @property
    def told(self) -> str:
        """What a reader who cannot see it is told."""
        parts = ["Theft against the seconds an attack takes, on a logarithmic axis."]
        for theft in self.thefts:
            if theft not in self.frontier:
                continue
            title = self.titles[theft["attack"]]
            parts.append(f"{title}: {words.both(theft['theft'])} for {words.cost(theft['price'])}.")
        for ceiling in self.ceilings:
            if ceiling["points"]:
                last = ceiling["points"][-1]
                reached = f"{words.both(last['theft'])} for {words.cost(last['price'])}."
                parts.append(f"Ceiling, {ceiling['title']}: up to {reached}")
        return " ".join(parts)


def shape(price: Price) -> str:
    """The marker for the data that was used: none, texts, or labels."""
    if price["labelled"]:
        return "triangle"
    return "square" if price["unlabelled"] else "circle"


def _size(price: Price) -> float:
    """More data, larger marker: by the order of magnitude."""
    return 4.5 + 0.9 * math.log10(1 + price["labelled"] + price["unlabelled"])


def _whisker(drawing: Drawing, at: Point, found: Estimate | None, y: Linear, style: str) -> None:
    if found and found["low"] is not None and found["high"] is not None:
        drawing.cover([(at[0], y(found["low"])), (at[0], y(found["high"]))])
        drawing.add(
            "line",
            f"whisker {style}",
            x1=at[0],
            x2=at[0],
            y1=y(found["low"]),
            y2=y(found["high"]),
        )


def told_apart(
    thefts: Sequence[Theft],
    attacks: Iterable[str],
    named: Callable[[Theft], bool] = lambda theft: False,
) -> list[Theft]:
    """What each attack reaches, cheapest first: its best, and less where that is far cheaper.

    Args:
        thefts: of all attacks, with every merge method, often at about the same price.
        attacks: their names, in the order in which what costs the same stands.
        named: what is kept besides.
    """
    kept: list[Theft] = []
    for attack in attacks:
        tried = [theft for theft in thefts if theft["attack"] == attack]
        told: list[Theft] = []
        for theft in reversed(rising(tried) or tried[:1]):
            far = not told or _seconds(theft) <= _CHEAPER * _seconds(told[-1])
            if far or named(theft):
                told.append(theft)
        kept += told
    return sorted(kept, key=_seconds)


def rising(thefts: Iterable[Theft]) -> list[Theft]:
    """Those that take more than everything cheaper does."""
    kept: list[Theft] = []
    for theft in sorted(thefts, key=lambda theft: (_seconds(theft), -_worth(theft))):
        if _worth(theft) > (_worth(kept[-1]) if kept else -1.0):
            kept.append(theft)
    return kept


def _seconds(theft: Theft) -> float:
    return theft["price"]["seconds"] or 0.0


def _worth(theft: Theft) -> float:
    found = theft["theft"]["value"] if theft["theft"] else None
    return -1.0 if found is None else found
