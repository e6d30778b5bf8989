"""How many items a search over coefficients meets, and what of V it gives away, in a simulation.

    python benchmarks/race_simulation.py

Each scene has two tasks of 64 validation items and eight candidates: coefficients of the owner's
and of the peer's model, each of which takes a little from the other's task. An item is answered
right where its difficulty, with noise of the candidate's own, is below a candidate's strength.
Compared are the race as it is, with other tolerances and looks, and two rungs that keep a third
after 16 items. What is given away is V of the best candidate less that of the chosen one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from unmergeable.auditing import race
from unmergeable.auditing import search as searching
from unmergeable.auditing.race import ITEMS, Reference
from unmergeable.auditing.search import Candidate, search
from unmergeable.evaluation.scoring import Score

PAIRS = ((1, 1), (0.5, 0.5), (0.7, 1.3), (1, 1.6), (0.3, 0.3), (1.6, 0.7), (0.3, 1), (1, 0.5))
SCENES, NOISE, TAKEN = 1000, 0.6, 0.25
Marks = list[list[Score]]


def scene(draw: np.random.Generator) -> tuple[Reference, Marks]:
    """A reference, and each candidate's marks on both tasks."""
    difficulty = [draw.normal(size=ITEMS) for _ in range(2)]
    low = [draw.uniform(-1, 0) for _ in range(2)]
    high = [draw.uniform(1, 2.2) for _ in range(2)]

    def marks(strength: float, task: int) -> Score:
        noisy = difficulty[task] + NOISE * draw.normal(size=ITEMS)
        return Score(tuple((noisy < strength).astype(float)))

    base = [marks(low[task], task) for task in range(2)]
    experts = [marks(high[task], task) for task in range(2)]
    peak = draw.uniform(0.5, 1.1)
    made = []
    for pair in PAIRS:
        shares = [min(own, 1.4) - TAKEN * other for own, other in (pair, pair[::-1])]
        shares = [peak * share * draw.uniform(0.9, 1.1) for share in shares]
        strengths = [lo + s * (hi - lo) for lo, hi, s in zip(low, high, shares, strict=True)]
        made.append([marks(strength, task) for task, strength in enumerate(strengths)])
    return Reference(base, experts), made


class Judge:
    """Answers as an evaluator does, and counts items."""

    def __init__(self, marks: Marks) -> None:
        self._marks, self.met = marks, 0

    def scores(self, about: Any, make: Any, split: str, start: int, stop: int) -> list[Score]:
        """The marks of a candidate on some items."""
        self.met += stop - start
        return [Score(score.marks[start:stop]) for score in self._marks[about["number"]]]


def raced(reference: Reference, marks: Marks) -> tuple[int, float]:
    """Items met by all candidates, and the share of the chosen one."""
    judge: Any = Judge(marks)
    named = [Candidate({"number": n}, {"number": n}, lambda: None) for n in range(len(marks))]  # type: ignore[arg-type, return-value]
    found = search(named, judge, reference)
    chosen = marks[found.candidate.label["number"]]
    return judge.met, max(0.0, reference.worst_share(chosen))


def rungs(reference: Reference, marks: Marks) -> tuple[int, float]:
    """The same of two rungs."""
    first = [[Score(score.marks[:16]) for score in each] for each in marks]
    order = sorted(range(len(marks)), key=lambda n: -reference.worst_share(first[n]))
    kept = order[: -(-len(marks) // 3)]
    best = max(reference.worst_share(marks[n]) for n in kept)
    return 16 * len(marks) + (ITEMS - 16) * len(kept), max(0.0, best)


def told(name: str, way: Callable[[Reference, Marks], tuple[int, float]]) -> None:
    """Prints a row."""
    draw, met, lost = np.random.default_rng(0), [], []
    for _ in range(SCENES):
        reference, marks = scene(draw)
        items, found = way(reference, marks)
        best = max(0.0, *(reference.worst_share(each) for each in marks))
        met.append(items / len(marks))
        lost.append(best - found)
    high = np.quantile(lost, 0.99)
    print(f"| {name} | {np.mean(met):.1f} | {np.mean(lost):.4f} | {high:.2f} |", flush=True)


def main() -> None:
    """Prints the table."""
    print("| search | items a candidate | of V given away, mean | 99th percentile |")
    print("| --- | --- | --- | --- |")
    told("two rungs", rungs)
    usual: tuple[float, Sequence[int]] = race.TOLERANCE, searching.LOOKS
    for tolerance, looks in ((0.1, (16, 32, 48)), (0.2, (16, 32, 48)), (0.1, usual[1]), usual):
        race.TOLERANCE, searching.LOOKS = tolerance, tuple(looks)  # type: ignore[assignment]
        told(f"race, tolerance {tolerance}, looks at {', '.join(map(str, looks))}", raced)


if __name__ == "__main__":
    main()
