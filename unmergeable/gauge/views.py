"""What tensors show of a space: the same positions in two models, a row each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from unmergeable.gauge.parts import Real

# Numbers of a view too large to hold that are in memory at once.
_HELD = 1 << 25


@dataclass(frozen=True, eq=False)
class View:
    """What one tensor shows of a space.

    Attributes:
        side: "write", "read" or "order".
        moved: shape (n, m), in the coordinates to be undone.
        anchor: shape (n, m), in the wanted ones.
    """

    side: str
    moved: Real
    anchor: Real

    @property
    def rows(self) -> int:
        """How many: n."""
        return len(self.moved)

    @property
    def columns(self) -> int:
        """How many: m."""
        return int(self.moved.shape[1])

    def part(self, columns: slice) -> View:
        """Some of the columns."""
        return View(self.side, self.moved[:, columns], self.anchor[:, columns])


class Wide(Protocol):
    """A view that need not be in memory; a `View` is one, too."""

    @property
    def side(self) -> str:
        """As of `View`."""

    @property
    def rows(self) -> int:
        """How many: n."""

    @property
    def columns(self) -> int:
        """How many: m."""

    def part(self, columns: slice) -> View:
        """Some of the columns, in memory."""


@dataclass(frozen=True, eq=False)
class Turned:
    """A view whose moved side has the other sign, unless it follows the order alone.

    Attributes:
        view: as it is.
    """

    view: Wide

    @property
    def side(self) -> str:
        """As of `View`."""
        return self.view.side

    @property
    def rows(self) -> int:
        """How many: n."""
        return self.view.rows

    @property
    def columns(self) -> int:
        """How many: m."""
        return self.view.columns

    def part(self, columns: slice) -> View:
        """Some of the columns, in memory."""
        found = self.view.part(columns)
        return found if self.side == "order" else View(self.side, -found.moved, found.anchor)


def whole(shown: Sequence[Wide]) -> list[View]:
    """All that is shown, in memory."""
    return [view.part(slice(None)) for view in shown]


def of_sides(views: Sequence[View], *sides: str) -> list[View]:
    """The views of these sides (default: all)."""
    return [view for view in views if not sides or view.side in sides]


def matrices(views: Sequence[View]) -> list[View]:
    """The views that are no biases or gains."""
    return [view for view in views if view.moved.shape[1] > 1]


def pieces(wide: Wide) -> Iterator[View]:
    """A view in parts that are small enough to hold, with many columns each."""
    step = max(1, _HELD // wide.rows)
    for start in range(0, wide.columns, step):
        yield wide.part(slice(start, start + step))
