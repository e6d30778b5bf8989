"""Finds the best of many candidates with few evaluations: a race against the best so far.

One candidate after another meets the validation items, in growing steps, and is compared after each
with the best of those before it on the same items. It is dropped once the bound of `race` says that
it will not end notably above that one; otherwise it meets all of them, and the higher share wins.
So the chosen candidate is one that an exhaustive search might choose, but for the error that the
bound states. Until a candidate is better than the base, the base is who they race against: what is
no better is worth nothing. Each is made once, for it meets all its items in a row. Test items are
never looked at here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from unmergeable.auditing.evaluator import Evaluator, Make, joined
from unmergeable.auditing.race import Reference
from unmergeable.errors import InputError
from unmergeable.evaluation.scoring import Score

LOOKS = (8, 16, 24, 32, 48)  # after so many items of each task candidates are compared


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
class Found:
    """The best candidate so far.

    Attributes:
        candidate: which it is.
        share: its worst share on the items that it met.
        scores: on all items; None if it was dropped, as all before it were.
    """

    candidate: Candidate
    share: float
    scores: Sequence[Score] | None

    def beats(self, other: Found) -> bool:
        """Whether it is better; what was dropped is no better than what met all items."""
        if (self.scores is None) != (other.scores is None):
            return other.scores is None
        return self.share > other.share


def search(
    candidates: Iterable[Candidate],
    evaluator: Evaluator,
    reference: Reference,
    best: Found | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Found:
    """The best of some candidates on validation items.

    Args:
        candidates: in the order in which they are tried.
        evaluator: scores them.
        reference: what shares are measured against.
        best: of an earlier search, whose candidates these are compared with, too.
        advance: called after each evaluation.

    Returns:
        The best; what was given as such if none is better.

    Raises:
        InputError: there is no candidate.
    """
    for candidate in candidates:
        found = _raced(candidate, evaluator, reference, best, advance)
        if best is None or found.beats(best):
            best = found
    if best is None:
        raise InputError("there was nothing to merge")
    return best


def _raced(
    candidate: Candidate,
    evaluator: Evaluator,
    reference: Reference,
    best: Found | None,
    advance: Callable[[], None],
) -> Found:
    """A candidate with its share on all items, or on those that it met before it was dropped."""
    rival = best.scores if best is not None and best.share > 0 else None
    total = reference.items
    stops = [0, *(stop for stop in LOOKS if stop < total), total]
    scores: list[Score] = []
    for start, stop in pairwise(stops):
        more = evaluator.scores(candidate.about, candidate.make, "validation", start, stop)
        scores = joined(scores, more) if scores else more
        advance()
        if stop < total and reference.lags(scores, rival):
            return Found(candidate, reference.worst_share(scores), None)
    return Found(candidate, reference.worst_share(scores), scores)
