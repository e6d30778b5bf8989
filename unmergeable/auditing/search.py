"""Finds the best of many candidates with few evaluations: successive halving.

Every candidate meets a few validation items of each task; the better third meets more of them, and
the best of those is chosen. Where all candidates are far worse than the base, no more items are
spent on telling which one is the least bad. Test items are never looked at here. Source:
successive halving (Jamieson and Talwalkar, AISTATS 2016), with two rungs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from unmergeable.auditing.evaluator import Evaluator, Make, joined
from unmergeable.errors import InputError
from unmergeable.evaluation.scoring import Score

FIRST_RUNG = 16
SECOND_RUNG = 64
# A worst share below which nobody would go on. On 16 items a task, a share is known to about 0.3.
HOPELESS = -1.0
KEEP = 2  # one candidate of three goes on, and at least this many


@dataclass(frozen=True, eq=False)
class Candidate:
    """One merge that could be tried.

    Attributes:
        label: for people, JSON-able: coefficients and the like.
        about: all that it depends on, JSON-able.
        make: makes it.
    """

    label: dict[str, Any]
    about: dict[str, Any]
    make: Make


@dataclass(frozen=True, eq=False)
class Reference:
    """What shares are measured against: validation scores of the base and of each task's expert."""

    base: Sequence[Score]
    experts: Sequence[Score]

    def worst_share(self, scores: Sequence[Score]) -> float:
        """The worst task's share of its expert's gain, not clipped, on as many items as scored."""
        shares = []
        for got, low, high in zip(scores, self.base, self.experts, strict=True):
            n = got.total
            gain = sum(high.marks) / high.total - sum(low.marks) / low.total
            shares.append((sum(got.marks) / n - sum(low.marks[:n]) / n) / gain if gain > 0 else 0.0)
        return min(shares)


@dataclass(frozen=True, eq=False)
class Found:
    """The best candidate, its worst share on the validation items, and how many were tried."""

    candidate: Candidate
    share: float
    tried: int


def search(
    groups: Iterable[Sequence[Candidate]],
    evaluator: Evaluator,
    reference: Reference,
    refine: Callable[[Candidate], Sequence[Candidate]] | None = None,
    settle: Callable[[Candidate], None] = lambda best: None,
    advance: Callable[[], None] = lambda: None,
) -> Found:
    """The best of some candidates on validation items.

    Args:
        groups: candidates that are tried together, the groups in turn; what only a group's
            candidates need may be let go after it.
        evaluator: scores them.
        reference: what shares are measured against.
        refine: the neighbours of the best candidate, tried after it.
        settle: called with the best candidate so far at the end of its group, while it is cheap to
            make again.
        advance: called after each evaluation.

    Raises:
        InputError: there is no candidate.
    """
    best: tuple[float, Candidate] | None = None
    tried = 0
    for group in groups:
        before = best
        first = []
        for order, candidate in enumerate(group):
            scores = evaluator.scores(candidate.about, candidate.make, "validation", 0, FIRST_RUNG)
            first.append((reference.worst_share(scores), -order, candidate, scores))
            advance()
        first.sort(key=lambda entry: entry[:2], reverse=True)
        for share, _, candidate, scores in first[: kept(len(first))]:
            if share > HOPELESS:
                share = _full(candidate, scores, evaluator, reference)
                advance()
            if best is None or share > best[0]:
                best = share, candidate
        tried += len(group)
        if best is not None and best is not before:
            settle(best[1])
    if best is None:
        raise InputError("there was nothing to merge")
    if refine is None or best[0] <= HOPELESS:
        return Found(best[1], best[0], tried)
    near = search([refine(best[1])], evaluator, reference, advance=advance)
    if near.share > best[0]:
        settle(near.candidate)
        return Found(near.candidate, near.share, tried + near.tried)
    return Found(best[1], best[0], tried + near.tried)


def kept(count: int) -> int:
    """How many candidates of a group meet all validation items."""
    return min(count, max(KEEP, count // 3))


def _full(
    candidate: Candidate, scores: list[Score], evaluator: Evaluator, reference: Reference
) -> float:
    rest = evaluator.scores(candidate.about, candidate.make, "validation", FIRST_RUNG, SECOND_RUNG)
    return reference.worst_share(joined(scores, rest))
