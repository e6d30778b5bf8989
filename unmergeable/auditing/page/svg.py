"""Scales, ticks and the few SVG elements that the figures are drawn with.

Elements go through ElementTree, which escapes every name; colours are classes of the page's style
sheet, so that figures follow the reader's light or dark mode.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol
from xml.etree import ElementTree

Point = tuple[float, float]
Box = tuple[float, float, float, float]


class Scale(Protocol):
    """Where a value stands, and what its axis says."""

    @property
    def start(self) -> float:
        """Where the axis begins."""

    @property
    def end(self) -> float:
        """Where it ends."""

    def __call__(self, value: float) -> float:
        """Where a value stands."""

    def ticks(self) -> list[tuple[float, str]]:
        """Values with their labels."""
        ...


@dataclass(frozen=True)
class Linear:
    """A scale with round ticks."""

    low: float
    high: float
    start: float
    end: float
    count: int = 4

    def __call__(self, value: float) -> float:
        """Where a value stands."""
        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        """Round values, at most about `count`."""
        rough = (self.high - self.low) / self.count or 1.0
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [(step * i, f"{step * i:.6g}") for i in range(first, last + 1)]


@dataclass(frozen=True)
class Log:
    """A logarithmic scale from one mark to another, with a place for zero left of it."""

    marks: tuple[tuple[float, str], ...]
    start: float
    end: float
    zero: bool
    room: float = 44

    @classmethod
    def over(
        cls, values: Sequence[float], marks: Sequence[tuple[float, str]], start: float, end: float
    ) -> Log:
        """The shortest run of `marks` that holds all positive values."""
        positive = [value for value in values if value > 0] or [1.0]
        low = max((i for i, mark in enumerate(marks) if mark[0] <= min(positive)), default=0)
        top = len(marks) - 1
        high = min((i for i, mark in enumerate(marks) if mark[0] >= max(positive)), default=top)
        low, high = (low, high) if high > low else (max(0, high - 1), max(1, high))
        return cls(tuple(marks[low : high + 1]), start, end, any(value <= 0 for value in values))

    def __call__(self, value: float) -> float:
        """Where a value stands; all that is not positive, at the start."""
        if value <= 0:
            return self.start
        away = math.copysign(36, self.end - self.start) if self.zero else 0
        low, high = math.log(self.marks[0][0]), math.log(self.marks[-1][0])
        share = (math.log(value) - low) / (high - low)
        first = self.start + away
        return first + min(max(share, 0.0), 1.0) * (self.end - first)

    def ticks(self) -> list[tuple[float, str]]:
        """Marks with room between them, the zero first."""
        kept: list[tuple[float, str]] = [(0.0, "0")] if self.zero else []
        for mark in self.marks:
            if not kept or abs(self(mark[0]) - self(kept[-1][0])) >= min(self.room, 36):
                kept.append(mark)
        return kept


@dataclass
class Drawing:
    """An SVG picture in user units; `words` is what a reader who cannot see it is told."""

    width: float
    height: float
    words: str
    kind: str = ""
    root: ElementTree.Element = field(init=False)
    taken: list[Box] = field(default_factory=list)

    def __post_init__(self) -> None:
        box = f"0 0 {self.width:g} {self.height:g}"
        self.root = ElementTree.Element(
            "svg", {"viewBox": box, "role": "img", "aria-label": self.words, "class": self.kind}
        )

    def __str__(self) -> str:
        return ElementTree.tostring(self.root, encoding="unicode")

    def add(self, name: str, kind: str, text: str | None = None, **where: float | str) -> None:
        """One element of class `kind`."""
        attributes = {"class": kind}
        for key, value in where.items():
            attributes[key.replace("_", "-")] = (
                value if isinstance(value, str) else f"{round(value, 1):g}"
            )
        ElementTree.SubElement(self.root, name, attributes).text = text

    def path(self, points: Sequence[Point | None], kind: str) -> None:
        """A line through the points, interrupted where one is missing."""
        steps, pen = [], "M"
        for point in points:
            if point is None:
                pen = "M"
            else:
                steps.append(f"{pen}{point[0]:.1f} {point[1]:.1f}")
                pen = "L"
        self.add("path", kind, d="".join(steps))

    def mark(self, shape: str, at: Point, size: float, kind: str) -> None:
        """A circle, square or triangle of about the same area."""
        x, y = at
        if shape == "circle":
            self.add("circle", kind, cx=x, cy=y, r=size)
        elif shape == "square":
            side = size * 1.77
            self.add("rect", kind, x=x - side / 2, y=y - side / 2, width=side, height=side)
        else:
            up, across = size * 1.55, size * 1.35
            self.add(
                "path",
                kind,
                d=f"M{x:.1f} {y - up:.1f}L{x + across:.1f} {y + up / 2:.1f}H{x - across:.1f}Z",
            )
        wide = size * 1.4
        self.taken.append((x - wide, y - wide, x + wide, y + wide))

    def cover(self, points: Sequence[Point], step: float = 12) -> None:
        """Keeps labels off a line."""
        for (x0, y0), (x1, y1) in pairwise(points):
            count = max(1, int(math.hypot(x1 - x0, y1 - y0) / step))
            for i in range(count + 1):
                x, y = x0 + (x1 - x0) * i / count, y0 + (y1 - y0) * i / count
                self.taken.append((x - 1, y - 1, x + 1, y + 1))

    def label(self, texts: Sequence[str], at: Point, kind: str, reach: float, within: Box) -> bool:
        """Writes the longest of `texts` that fits near a point without covering anything."""
        x, y = at
        for text in texts:
            wide = (7.6 if kind == "point" else 6.9) * len(text)  # points are set in bold
            for dx, dy, anchor in (
                (-reach, 4.5, "end"),
                (reach, 4.5, "start"),
                (0, -reach - 2, "middle"),
                (0, reach + 11, "middle"),
                (-reach * 0.8, -reach, "end"),
                (reach * 0.8, -reach, "start"),
                (reach * 0.8, reach + 9, "start"),
                (-reach * 0.8, reach + 9, "end"),
            ):
                left = x + dx - {"start": 0, "end": wide, "middle": wide / 2}[anchor]
                box = (left, y + dy - 10, left + wide, y + dy + 3)
                if _inside(box, within) and not any(_meet(box, other) for other in self.taken):
                    self.taken.append(box)
                    self.add("text", kind, text, x=x + dx, y=y + dy, text_anchor=anchor)
                    return True
        return False

    def axes(self, x: Scale, y: Scale, above: str, below: str) -> None:
        """Rules at the vertical ticks, labels at both axes, and the axes' names."""
        for value, name in y.ticks():
            self.add("line", "rule", x1=x.start, x2=x.end, y1=y(value), y2=y(value))
            self.add("text", "tick", name, x=x.start - 8, y=y(value) + 4, text_anchor="end")
        self.add("line", "axis", x1=x.start, x2=x.end, y1=y.start, y2=y.start)
        for value, name in x.ticks():
            place = x(value)
            self.add("line", "axis", x1=place, x2=place, y1=y.start, y2=y.start + 4)
            self.add("text", "tick", name, x=place, y=y.start + 18, text_anchor="middle")
        self.add("text", "name", above, x=0, y=12)
        self.add("text", "name", below, x=x.end, y=y.start + 36, text_anchor="end")


def _inside(box: Box, outer: Box) -> bool:
    return box[0] >= outer[0] and box[1] >= outer[1] and box[2] <= outer[2] and box[3] <= outer[3]


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
