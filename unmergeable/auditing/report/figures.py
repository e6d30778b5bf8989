"""The curves: what theft costs, the straight line between two models, displacement by layer.

A figure is drawn twice, for wide and for narrow screens, since scaled text would not be read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from unmergeable.auditing.report import formatting as words
from unmergeable.auditing.report.queries import Reading
from unmergeable.auditing.report.schema import Displacement, Estimate, Line, Price, Task, Theft
from unmergeable.auditing.report.svg import Box, Drawing, Linear, Log, Point

WIDE, NARROW = 960.0, 350.0

SECONDS = tuple(
    [(1e-3, "1 ms"), (0.01, "10 ms"), (0.1, "0.1 s"), (1.0, "1 s"), (10.0, "10 s")]
    + [(60.0, "1 min"), (600.0, "10 min"), (3600.0, "1 h"), (36e3, "10 h"), (36e4, "100 h")]
    + [(36.0 * 10**power, f"1e{power - 2} h") for power in range(5, 12)]
)
DECADES = tuple((10.0**power, f"{10.0**power:.9g}") for power in range(-9, 7))


@dataclass(frozen=True)
class Figure:
    """One figure in both widths."""

    wide: str
    narrow: str


def price_figure(reading: Reading) -> Figure | None:
    """Theft against seconds, the best so far as a line, beside the ceilings."""
    if not reading.thefts() and not reading.report["price_curve"]["ceilings"]:
        return None
    return Figure(_price(reading, WIDE, 420, "wide"), _price(reading, NARROW, 330, "narrow"))


def line_panels(line: Line, tasks: list[Task]) -> list[tuple[str, str]]:
    """One small drawing for each task on the line, with the task's title."""
    present = [
        task for task in tasks if any(task["name"] in curve["losses"] for curve in line["curves"])
    ]
    return [(task["title"], _panel(line, task)) for task in present]


def displacement_figure(displacement: Displacement) -> Figure | None:
    """Relative distance to the base by layer."""
    if not displacement["layers"]:
        return None
    return Figure(
        _layers(displacement, WIDE, 320, "wide"), _layers(displacement, NARROW, 280, "narrow")
    )


def shape(price: Price) -> str:
    """The marker for the data that was used: none, texts, or labels."""
    if price["labelled"]:
        return "triangle"
    return "square" if price["unlabelled"] else "circle"


def _size(price: Price) -> float:
    """More data, larger marker: by the order of magnitude."""
    return 4.5 + 0.9 * math.log10(1 + price["labelled"] + price["unlabelled"])


def _price(reading: Reading, width: float, height: float, kind: str) -> str:
    thefts, frontier = reading.thefts(), reading.frontier()  # the line is exact, points are fewer
    ceilings = reading.report["price_curve"]["ceilings"]
    prices = [theft["price"] for theft in (*thefts, *frontier)]
    prices += [point["price"] for ceiling in ceilings for point in ceiling["points"]]
    estimates = [theft["theft"] for theft in thefts]
    estimates += [point["theft"] for ceiling in ceilings for point in ceiling["points"]]
    tops = [edge or 0.0 for found in estimates if found for edge in (found["value"], found["high"])]
    drawing = Drawing(width, height, _told(reading), kind)
    spent = [price["seconds"] or 0.0 for price in prices]
    x = Log.over(spent, SECONDS, 40, width - 14)
    y = Linear(0.0, max([1.0, *tops]) * 1.06, height - 46, 34)
    drawing.axes(x, y, "theft (1 = worth as much as the open model)", "time of the attack (log)")
    drawing.add("line", "full", x1=x.start, x2=x.end, y1=y(1), y2=y(1))

    def place(price: Price, estimate: Estimate | None) -> Point | None:
        value = estimate["value"] if estimate else None
        return None if value is None else (x(price["seconds"] or 0.0), y(value))

    runs = []
    for index, ceiling in enumerate(ceilings):
        style = f"c-ceiling{index % 2}"
        ordered = sorted(ceiling["points"], key=lambda point: point["price"]["seconds"] or 0.0)
        found = [(p, at) for p in ordered if (at := place(p["price"], p["theft"]))]
        drawing.path([at for _, at in found], f"curve {style}")
        drawing.cover([at for _, at in found])
        for point, at in found:
            _whisker(drawing, at, point["theft"], y, style)
            drawing.mark(shape(point["price"]), at, _size(point["price"]) - 1, f"hollow {style}")
        if found:
            runs.append((ceiling["title"], found[-1][1]))
    steps: list[Point] = []
    for theft in frontier:
        if at := place(theft["price"], theft["theft"]):
            steps += [(at[0], steps[-1][1]), at] if steps else [at]
    if steps:
        steps.append((x.end, steps[-1][1]))
    drawing.path(steps, "curve best")
    drawing.cover(steps)
    marked = [(n, t, at) for n, t in enumerate(thefts, 1) if (at := place(t["price"], t["theft"]))]
    for _, theft, at in marked:
        _whisker(drawing, at, theft["theft"], y, "c-attack")
        on = "c-attack" if theft in frontier else "hollow c-attack"
        drawing.mark(shape(theft["price"]), at, _size(theft["price"]), on)
    _write(drawing, reading, marked, runs, (x.start + 2, 16, width, y.start - 1))
    return str(drawing)


def _write(
    drawing: Drawing,
    reading: Reading,
    marked: list[tuple[int, Theft, Point]],
    runs: list[tuple[str, Point]],
    within: Box,
) -> None:
    """Numbers at all attacks, names where there is room: first those that set the best so far."""
    frontier = reading.frontier()
    for number, theft, at in sorted(marked, key=lambda each: each[1] not in frontier):
        title = reading.attacks[theft["attack"]]["title"]
        long = f"{number}  {title}"
        texts = [str(number)]
        if drawing.kind == "wide" and len(title) <= 40:
            texts = [f"{long}, {words.data(theft['price'])}", long, *texts]
        drawing.label(texts, at, "point", _size(theft["price"]) + 5, within)
    for title, at in runs:
        if drawing.kind == "wide":
            drawing.label([title, f"{title[:28]}…"], at, "ceiling", 12, within)


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


def _told(reading: Reading) -> str:
    parts = ["Theft against the seconds an attack takes, on a logarithmic axis."]
    for theft in reading.thefts():
        if theft not in reading.frontier():
            continue
        title = reading.attacks[theft["attack"]]["title"]
        parts.append(f"{title}: {words.both(theft['theft'])} for {words.cost(theft['price'])}.")
    for ceiling in reading.report["price_curve"]["ceilings"]:
        if ceiling["points"]:
            last = ceiling["points"][-1]
            reached = f"{words.both(last['theft'])} for {words.cost(last['price'])}."
            parts.append(f"Ceiling, {ceiling['title']}: up to {reached}")
    return " ".join(parts)


def _panel(line: Line, task: Task) -> str:
    curves = [
        (curve["name"], curve["losses"][task["name"]])
        for curve in line["curves"]
        if task["name"] in curve["losses"]
    ]
    found = [loss for _, losses in curves for loss in losses if loss is not None]
    told = f"Loss on {task['title']} from the peer to the protected expert. " + " ".join(
        f"{name}: highest {max(known):.3g}."
        for name, losses in curves
        if (known := [loss for loss in losses if loss is not None])
    )
    drawing = Drawing(300, 220, told, "panel")
    x = Linear(min(line["at"], default=0.0), max(line["at"], default=1.0), 40, 288, count=2)
    y = Linear(0.0, max(found, default=1.0) * 1.06 or 1.0, 180, 26)
    drawing.axes(x, y, "loss", "")
    drawing.add("text", "name", "peer", x=x.start, y=214)
    drawing.add("text", "name", "protected", x=x.end, y=214, text_anchor="end")
    for name, losses in curves:
        points = [
            None if loss is None else (x(at), y(loss))
            for at, loss in zip(line["at"], losses, strict=True)
        ]
        drawing.path(points, f"curve c-{name}")
    return str(drawing)


def _layers(displacement: Displacement, width: float, height: float, kind: str) -> str:
    layers, curves = displacement["layers"], displacement["curves"]
    found = [value for curve in curves for value in curve["values"] if value is not None]
    told = "Relative distance to the base by layer. " + " ".join(
        f"{curve['name']}: {min(known):.3g} to {max(known):.3g}."
        for curve in curves
        if (known := [value for value in curve["values"] if value is not None])
    )
    drawing = Drawing(width, height, told, kind)
    positive = [value for value in found if value > 0]
    top, bottom = 34.0, height - 46
    far = bool(positive) and max(positive) > 30 * min(positive)
    y: Linear | Log = Linear(0.0, max(found, default=1.0) * 1.06 or 1.0, bottom, top)
    if far:
        y = Log.over(found, DECADES, bottom, top)
    x = Linear(0, max(len(layers) - 1, 1), 62, width - 40)
    drawing.axes(
        _Named(x, tuple(layers)),
        y,
        "distance to the base, relative" + (" (log)" if far else ""),
        "layer",
    )
    for curve in curves:
        points = [
            None if value is None else (x(index), y(value))
            for index, value in enumerate(curve["values"])
        ]
        drawing.path(points, f"curve c-{curve['name']}")
        for point in points:
            if point:
                drawing.mark("circle", point, 2.2, f"c-{curve['name']}")
    return str(drawing)


@dataclass(frozen=True)
class _Named:
    """An axis of names, as many as have room."""

    inner: Linear
    names: tuple[str, ...]

    @property
    def start(self) -> float:
        return self.inner.start

    @property
    def end(self) -> float:
        return self.inner.end

    def __call__(self, value: float) -> float:
        return self.inner(value)

    def ticks(self) -> list[tuple[float, str]]:
        kept: list[tuple[float, str]] = []
        edge = -math.inf
        for index, name in enumerate(self.names):
            short = name if len(name) <= 12 else f"{name[:11]}…"
            half = 3.9 * len(short)
            if self(index) - half > edge:
                kept.append((index, short))
                edge = self(index) + half + 8
        return kept
