"""What a merge is worth, with its uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unmergeable.tasks.scoring import Score

if TYPE_CHECKING:
    from numpy.typing import NDArray

DRAWS = 1000


@dataclass(frozen=True)
class Value:
    """A merge value V with its 95 % bootstrap interval.

    Attributes:
        shares: By task, (merged - base) / (expert - base), not clipped.
        low: 2.5 % quantile of V.
        high: 97.5 % quantile of V.
    """

    shares: tuple[float, ...]
    low: float
    high: float

    @property
    def value(self) -> float:
        """V: the worst task's share, clipped to [0, 1]."""
        return min(1.0, max(0.0, min(self.shares)))


def merge_value(
    merged: Sequence[Score], base: Sequence[Score], experts: Sequence[Score], seed: int = 0
) -> Value | None:
    """What a merge is worth: the worst task's share of what its expert gained over the base.

    For the interval, each task's items are drawn anew with replacement, the same ones for the
    merge, the base and the expert, since all three answered the same questions.

    Args:
        merged: The merge's score on each task.
        base: The base's, in the same order.
        experts: On each task, that of the expert of this task.
        seed: Of the draws.

    Returns:
        The value; None where an expert is no better than the base, since nothing can be said then.
    """
    import numpy as np

    def shares(low: NDArray[Any], got: NDArray[Any], high: NDArray[Any]) -> NDArray[Any]:
        gain = high - low
        out: NDArray[Any] = np.full(gain.shape, np.nan)
        np.divide(got - low, gain, out=out, where=gain > 0)
        return out

    draw = np.random.default_rng(seed)
    points, drawn = [], []
    for got, low, high in zip(merged, base, experts, strict=True):
        right = np.array([low.right, got.right, high.right], dtype=float)
        points.append(float(shares(*right.mean(1)[:, None])[0]))
        items = draw.integers(right.shape[1], size=(DRAWS, right.shape[1]))
        drawn.append(shares(*right[:, items].mean(2)))
    if any(np.isnan(points)):
        return None
    values = np.clip(np.min(drawn, axis=0), 0, 1)
    # Draws in which an expert has no gain say nothing; with a real gain there are none.
    ends = np.nanquantile(values, (0.025, 0.975))
    return Value(tuple(points), float(ends[0]), float(ends[1]))
