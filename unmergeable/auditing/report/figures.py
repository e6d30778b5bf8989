"""The curves: what theft costs, the straight line between two models, displacement by layer."""

from __future__ import annotations

import math
from dataclasses import dataclass

from unmergeable.auditing.page.prices import NARROW, WIDE, Curve, Figure
from unmergeable.auditing.page.svg import Drawing, Linear, Log
from unmergeable.auditing.report.queries import Reading
from unmergeable.auditing.report.schema import Displacement, Line, Task

DECADES = tuple((10.0**power, f"{10.0**power:.9g}") for power in range(-9, 7))


def price_figure(reading: Reading) -> Figure | None:
    """Theft against seconds, the best so far as a line, beside the ceilings."""
    thefts, ceilings = reading.thefts(), reading.report["price_curve"]["ceilings"]
    if not thefts and not ceilings:
        return None
    titles = {name: attack["title"] for name, attack in reading.attacks.items()}
    numbers = [str(number) for number in range(1, len(thefts) + 1)]
    curve = Curve(thefts, numbers, reading.frontier(), ceilings, titles)
    return Figure(curve.drawn(WIDE, 420, "wide"), curve.drawn(NARROW, 330, "narrow"))


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
