"""How far an audit is, and how long it will still take."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from unmergeable.progress import Progress, Status, silent


@dataclass
class PlannedSteps:
    """Counts evaluations against a plan; the remaining time is from those that were measured.

    Steps that were looked up take no time and say nothing about those to come, so the rate is the
    mean over measured steps alone.

    Attributes:
        progress: is told what is being done, and how far it is.
        measured: tells how many models were run so far.
    """

    progress: Progress = silent
    measured: Callable[[], int] = lambda: 0
    _planned: int = 0
    _done: int = 0
    _end: int = 0
    _what: str = ""
    _spent: float = 0.0
    _steps: int = 0
    _clock: float = field(default_factory=time.perf_counter)
    _count: int = 0

    def plan(self, steps: int) -> None:
        """Adds to the plan."""
        self._planned += steps

    def start(self, what: str, steps: int) -> None:
        """Begins a planned part."""
        self._what, self._end = what, self._done + steps
        self._clock, self._count = time.perf_counter(), self.measured()
        self._show()

    def step(self, count: int = 1) -> None:
        """Some evaluations are done."""
        now, measured = time.perf_counter(), self.measured()
        if measured > self._count:
            self._spent += now - self._clock
            self._steps += measured - self._count
        self._clock, self._count = now, measured
        self._done = min(self._done + count, self._end)
        self._show()

    def finish(self) -> None:
        """The part is done, in more or fewer steps than planned."""
        self._done = self._end
        self._show()

    @property
    def remaining(self) -> float | None:
        """Seconds left, or None where nothing was measured yet."""
        if not self._steps:
            return None
        return (self._planned - self._done) * self._spent / self._steps

    def _show(self) -> None:
        total = max(self._planned, self._done)
        self.progress(Status(self._what, self._done, total, "steps", self.remaining))
