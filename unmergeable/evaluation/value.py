"""What a merge is worth, what a theft took, with their uncertainty, and which merge is the best.

Where all items speak alike, as at V = 0 and V = 1, every bootstrap draw is the same and would give
an interval without width. There its end is widened to what `unseen` allows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from unmergeable.evaluation.scoring import Score

if TYPE_CHECKING:
    from numpy.typing import NDArray

DRAWS = 1000
_Z = 1.959964


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
        unseen: By task, what of a share `unseen` items could hide.
    """

    shares: tuple[float, ...]
    drawn: NDArray[Any]
    unseen: tuple[float, ...]

    @property
    def value(self) -> float:
        """V: the worst task's share, clipped to [0, 1]."""
        return min(1.0, max(0.0, min(self.shares)))

    @property
    def estimate(self) -> Estimate:
        """V with its interval, widened at 0 and at 1 by what no item showed."""
        low, high = _ends(self.drawn)
        if self.value >= 1:
            low = min(low, self._shifted(-1))
        if self.value <= 0:
            high = max(high, self._shifted(1))
        return Estimate(self.value, low, high)

    def _shifted(self, sign: int) -> float:
        """V if every task's share were off by what no item showed."""
        pairs = zip(self.shares, self.unseen, strict=True)
        return min(1.0, max(0.0, min(share + sign * hidden for share, hidden in pairs)))


@dataclass(frozen=True, eq=False)
class Runs:
    """V of what was trained several times: the mean over the runs.

    Attributes:
        runs: V of each, drawn with one seed, so that draws are of the same items in all.
    """

    runs: tuple[Value, ...]

    @property
    def value(self) -> float:
        """The mean V."""
        return float(np.mean([run.value for run in self.runs]))

    @cached_property
    def drawn(self) -> NDArray[Any]:
        """The mean V in each bootstrap draw, which draws runs and items."""
        return draw_runs(np.array([run.drawn for run in self.runs]))

    @property
    def unseen(self) -> tuple[float, ...]:
        """See `Value`; the runs were asked the same items, so that more of them show no more."""
        return tuple(max(each) for each in zip(*(run.unseen for run in self.runs), strict=True))

    @property
    def estimate(self) -> Estimate:
        """The mean with its interval, widened where all runs are at 0 or all at 1."""
        low, high = _ends(self.drawn)
        if self.value >= 1:
            low = min(low, *(run.estimate.low for run in self.runs))
        if self.value <= 0:
            high = max(high, *(run.estimate.high for run in self.runs))
        return Estimate(self.value, low, high)


def draw_runs(drawn: NDArray[Any], seed: int = 0) -> NDArray[Any]:
    """The mean of several runs in each draw, which draws the runs, too, with replacement.

    All runs answer the same items, so one draw has the same items for each of its runs. Few runs
    tell little of how much runs differ: of three, the interval is narrower than it should be.

    Args:
        drawn: one row a run, one column a draw of items.
        seed: of which runs are drawn.
    """
    runs, draws = drawn.shape
    picked = np.random.default_rng(seed).integers(runs, size=(runs, draws))
    mean: NDArray[Any] = drawn[picked, np.arange(draws)].mean(0)
    return mean


def merge_value(
    merged: Sequence[Score], base: Sequence[Score], experts: Sequence[Score], seed: int = 0
) -> Value | None:
    """What a merge is worth: the worst task's share of what its expert gained over the base.

    For the interval, each task's items are drawn with replacement: the same ones for the
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

    points, drawn, hidden = [], [], []
    counts = _counts(seed, tuple(len(score.marks) for score in merged))
    for got, low, high, each in zip(merged, base, experts, counts, strict=True):
        marks = np.array([low.marks, got.marks, high.marks])
        points.append(float(shares(*marks.mean(1)[:, None])[0]))
        hidden.append(unseen(marks.shape[1]) / max(high.accuracy - low.accuracy, 1e-12))
        drawn.append(shares(*(marks @ each.astype(float) / marks.shape[1])))
    if any(np.isnan(points)):
        return None
    return Value(tuple(points), np.clip(np.min(drawn, axis=0), 0, 1), tuple(hidden))


@lru_cache(maxsize=4)
def _counts(seed: int, sizes: tuple[int, ...]) -> tuple[NDArray[Any], ...]:
    """By task, how often each item is in each draw; kept, as all merges are drawn with the same."""
    draw = np.random.default_rng(seed)
    found = []
    for items in sizes:
        drawn = draw.integers(items, size=(DRAWS, items)) + items * np.arange(DRAWS)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=DRAWS * items).reshape(DRAWS, items)
        found.append(counts.astype(np.uint8).T)
    return tuple(found)


def unseen(items: int) -> float:
    """How often something may happen that happened at none of this many items.

    The upper end of Wilson's 95 % interval at a share of 0, about 3.8 / items.
    """
    return _Z * _Z / (items + _Z * _Z)


def theft(after: Value | Runs, unprotected: Value) -> Estimate | None:
    """What an attack took: V after it over V of the unprotected expert's merge.

    Its interval is widened, as that of V is, where V is 0 after the attack, and where both merges
    do the same on all items, so that the ratio is 1 in every draw.

    Returns:
        The ratio, not clipped, with its paired interval; None where the unprotected merge is worth
        nothing.
    """
    if not unprotected.value:
        return None
    ratio = np.full(DRAWS, np.nan)
    np.divide(after.drawn, unprotected.drawn, out=ratio, where=unprotected.drawn > 0)
    low, high = _ends(ratio)
    value = after.value / unprotected.value
    if after.value <= 0:
        high = max(high, after.estimate.high / unprotected.value)
    elif low == high:
        hidden = max(after.unseen) / unprotected.value
        low, high = max(0.0, value - hidden), value + hidden
    return Estimate(value, low, high)


def strength(
    value: float | None, price: Mapping[str, Any] | None, low: float | None = None
) -> tuple[float, float, float]:
    """What the best of several merges is chosen by, here and everywhere: the greatest is the best.

    The highest V; of those that have it, the cheapest; of these, the one whose interval begins
    highest. What is still equal is left to the order of the report: the first is the best.

    Args:
        value: V, or the theft, which is V on another scale; None counts as worse than any.
        price: what it cost, as in the report.
        low: the lower end of its interval.
    """
    seconds = (price or {}).get("seconds") or 0.0
    return (-1.0 if value is None else value, -seconds, low or 0.0)


def _ends(drawn: NDArray[Any]) -> tuple[float, float]:
    """The 95 % interval; a draw in which an expert has no gain may stand for anything."""
    unknown = np.isnan(drawn)
    low = np.quantile(np.where(unknown, 0.0, drawn), 0.025)
    high = np.quantile(np.where(unknown, 1.0, drawn), 0.975)
    return float(low), float(high)
