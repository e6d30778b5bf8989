"""What a merge is worth, and what a theft took, with their uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from unmergeable.tasks.scoring import Score

if TYPE_CHECKING:
    from numpy.typing import NDArray

DRAWS = 1000


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float

    def document(self) -> dict[str, float]:
        """For JSON."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True, eq=False)
class Value:
    """A merge value V.

    Attributes:
        shares: By task, (merged - base) / (expert - base), not clipped.
        drawn: V in each bootstrap draw; NaN where an expert gained nothing in it.
    """

    shares: tuple[float, ...]
    drawn: NDArray[Any]

    @property
    def value(self) -> float:
        """V: the worst task's share, clipped to [0, 1]."""
        return min(1.0, max(0.0, min(self.shares)))

    @property
    def estimate(self) -> Estimate:
        """V with its interval."""
        return Estimate(self.value, *_ends(self.drawn))


def merge_value(
    merged: Sequence[Score], base: Sequence[Score], experts: Sequence[Score], seed: int = 0
) -> Value | None:
    """What a merge is worth: the worst task's share of what its expert gained over the base.

    For the interval, each task's items are drawn anew with replacement: the same ones for the
    merge, the base and the expert, since all three answered the same questions, and the same ones
    for every merge that is judged with this seed, so that ratios of values are paired.

    Args:
        merged: The merge's score on each task.
        base: The base's, in the same order.
        experts: On each task, that of the expert of this task.
        seed: Of the draws.

    Returns:
        The value; None where an expert is no better than the base, since nothing can be said then.
    """

    def shares(low: NDArray[Any], got: NDArray[Any], high: NDArray[Any]) -> NDArray[Any]:
        gain = high - low
        out: NDArray[Any] = np.full(gain.shape, np.nan)
        np.divide(got - low, gain, out=out, where=gain > 0)
        return out

    draw = np.random.default_rng(seed)
    points, drawn = [], []
    for got, low, high in zip(merged, base, experts, strict=True):
        marks = np.array([low.marks, got.marks, high.marks])
        points.append(float(shares(*marks.mean(1)[:, None])[0]))
        items = draw.integers(marks.shape[1], size=(DRAWS, marks.shape[1]))
        drawn.append(shares(*marks[:, items].mean(2)))
    if any(np.isnan(points)):
        return None
    return Value(tuple(points), np.clip(np.min(drawn, axis=0), 0, 1))


def theft(after: Value, unprotected: Value) -> Estimate | None:
    """What an attack took: V after it over V of the unprotected expert's merge.

    Returns:
        The ratio, not clipped, with its paired interval; None where the unprotected merge is worth
        nothing.
    """
    if not unprotected.value:
        return None
    ratio = np.full(DRAWS, np.nan)
    np.divide(after.drawn, unprotected.drawn, out=ratio, where=unprotected.drawn > 0)
    return Estimate(after.value / unprotected.value, *_ends(ratio))


def _ends(drawn: NDArray[Any]) -> tuple[float, float]:
    # Draws in which an expert has no gain say nothing; with a real gain there are none.
    if np.isnan(drawn).all():
        return 0.0, 1.0
    low, high = np.nanquantile(drawn, (0.025, 0.975))
    return float(low), float(high)
