"""Where an audit's processor time goes, by kind of work: each second counts for one kind alone."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any


class Spent:
    """CPU seconds and calls by kind of work; what one kind calls of another counts for that one."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self._doing = ["all else"]
        self._clock = time.process_time()

    def watch(self, owner: Any, name: str, kind: str) -> None:
        """Counts the calls of a function, or the steps of a generator, that an object holds."""
        found = getattr(owner, name)
        setattr(owner, name, self._counted(found, kind))

    def lines(self) -> list[str]:
        """A line for each kind, the costliest first."""
        self._tick()
        whole = sum(self.seconds.values())
        return [
            f"{seconds:8.1f} CPU s {seconds / whole:5.0%} {self.calls[kind]:6d} times  {kind}"
            for kind, seconds in self.seconds.most_common()
        ]

    def _counted(self, function: Callable[..., Any], kind: str) -> Callable[..., Any]:
        @wraps(function)
        def counted(*given: Any, **named: Any) -> Any:
            self.calls[kind] += 1
            with self._while(kind):
                made = function(*given, **named)
            return self._steps(made, kind) if isinstance(made, Iterator) else made

        return counted

    def _steps(self, made: Iterator[Any], kind: str) -> Iterator[Any]:
        while True:
            with self._while(kind):
                try:
                    step = next(made)
                except StopIteration:
                    return
            yield step

    @contextmanager
    def _while(self, kind: str) -> Iterator[None]:
        self._tick()
        self._doing.append(kind)
        try:
            yield
        finally:
            self._tick()
            self._doing.pop()

    def _tick(self) -> None:
        now = time.process_time()
        self.seconds[self._doing[-1]] += now - self._clock
        self._clock = now


def watched() -> Spent:
    """Counts what an audit is made of, from now on."""
    from unmergeable.attacks import distil, pull_back_gradient, training_data
    from unmergeable.auditing import controls, grid
    from unmergeable.auditing.evaluator import Evaluator
    from unmergeable.evaluation import scoring
    from unmergeable.merging import learning
    from unmergeable.models.model_runner import ModelRunner
    from unmergeable.models.weights import Weights

    spent = Spent()
    for owner, name, kind in (
        (Evaluator, "_merged", "making merges"),
        (ModelRunner, "load_state", "loading weights"),
        (scoring, "score_batches", "scoring"),
        (training_data, "train", "training"),
        (pull_back_gradient, "train", "training"),
        (learning, "slope", "learning coefficients"),
        (training_data, "ask", "teachers' answers"),
        (distil, "pools", "texts and synthetic inputs"),
        (grid, "align_tensors", "aligning"),
        (controls, "align_tensors", "aligning"),
        (controls, "protect", "locking, for a control"),
        (Weights, "read", "reading models"),
    ):
        spent.watch(owner, name, kind)
    return spent
