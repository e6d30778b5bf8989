"""When a candidate may be dropped: what the items seen so far say of all of them.

A candidate races against a rival that has met all validation items, so that its worst share V is
known. It is to be dropped unless it may still end more than `TOLERANCE` above that. If it will, its
share on every task is more than V + `TOLERANCE`, and a sum over the task's items of how far the
rival is ahead ends below a known number. Against each of these claims one bets item by item, in
random order, at odds that are fair if it is just true. Half of the stake is split among the tasks;
half is bet on one task after the other, each with what the last one made of it. Then what the bets
have made of 1 is 1 / `ERROR` or more at any time with probability `ERROR` at most (Ville's
inequality); where it is, the candidate is dropped.

So whatever the marks are, however many candidates there are and however often one looks: one that
would have ended more than `TOLERANCE` above its rival is dropped in at most one case of twenty,
over the order of the items. A search that has not dropped its best candidate so chooses one within
`TOLERANCE` of it. That is the bound; what is lost on average is far less, for a candidate that ends
a little above its rival is seldom dropped.

Source: betting on means of finite populations, Waudby-Smith and Ramdas, "Estimating means of
bounded random variables by betting" (JRSS B 86, 2024), section 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from unmergeable.evaluation.scoring import Score

if TYPE_CHECKING:
    from numpy.typing import NDArray

ITEMS = 64  # of each task's validation items, as many are used
ERROR = 0.05
TOLERANCE = 0.2
# Of what one has, the share put on each item: each is played, with as much to begin with.
BETS = (0.5, 1.0)
_LEAST = 1e-9


@dataclass(frozen=True, eq=False)
class Reference:
    """What shares are measured against: validation scores of the base and of each task's expert."""

    base: Sequence[Score]
    experts: Sequence[Score]

    @property
    def items(self) -> int:
        """How many validation items of each task candidates may meet: as many of one as another."""
        return min(ITEMS, *(score.total for score in self.base))

    def shares(self, scores: Sequence[Score]) -> list[float]:
        """By task, the share of its expert's gain, not clipped, on as many items as scored."""
        shares = []
        for got, low, gain in zip(scores, self.base, self._gains, strict=True):
            n = got.total
            shares.append((sum(got.marks) / n - sum(low.marks[:n]) / n) / gain if gain > 0 else 0.0)
        return shares

    def worst_share(self, scores: Sequence[Score]) -> float:
        """The worst task's share."""
        return min(self.shares(scores))

    def lags(self, scores: Sequence[Score], rival: Sequence[Score] | None) -> bool:
        """Whether a candidate may be dropped; see the module.

        Args:
            scores: of the candidate on the first items of each task.
            rival: of another one, on all items; None for the base.
        """
        if rival is None:
            rival = [Score(score.marks[: self.items]) for score in self.base]
        shares = self.shares(rival)
        wanted = min(shares) + TOLERANCE
        won = []
        for mine, other, share, gain in zip(scores, rival, shares, self._gains, strict=True):
            if gain <= 0:  # the task says nothing for a merge
                won.append(1.0)
                continue
            leads = np.array(other.marks[: mine.total]) - np.array(mine.marks)
            won.append(winnings(leads, other.total, gain * (share - wanted) * other.total))
        if np.inf in won:
            return ERROR > 0
        return bool((np.mean(won) + np.prod(won)) / 2 * ERROR >= 1)

    @property
    def _gains(self) -> list[float]:
        """By task, by how much the expert is better than the base."""
        pairs = zip(self.base, self.experts, strict=True)
        return [high.accuracy - low.accuracy for low, high in pairs]


def winnings(leads: NDArray[Any], items: int, most: float) -> float:
    """What bets make of 1 that are fair, or worse, where all leads together are `most` or less.

    Args:
        leads: in [-1, 1], one for each item seen, drawn without replacement.
        items: how many there are in all.
        most: of their sum; may be negative.
    """
    left = items - np.arange(len(leads))
    # What is claimed of the leads to come, each time: the highest mean that they may have.
    fair = (most - np.cumsum(leads) + leads) / left
    if (fair < -1 - _LEAST).any():
        return np.inf  # nothing that is to come can make it true
    gains = (leads - fair) / np.maximum(1 + fair, _LEAST)
    won = [np.prod(np.maximum(1 + bet * gains, 0)) for bet in BETS]
    return float(np.mean(won))
