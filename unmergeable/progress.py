"""How far a call is: the one protocol of every verb that takes long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Status:
    """What a verb tells while it works.

    Attributes:
        what: is being done.
        done: of the total, in its unit.
        total: as planned; it may grow.
        unit: bytes, or steps.
        seconds_left: an estimate, or None where there is none.

    Examples:
        >>> seen = []
        >>> unmergeable.protect("expert", "out", "owner.key", progress=seen.append).manifest.title
        'lossless lock'
        >>> seen[-1].what, seen[-1].done == seen[-1].total
        ('protecting', True)
    """

    what: str
    done: int
    total: int
    unit: Literal["bytes", "steps"] = "bytes"
    seconds_left: float | None = None


Progress = Callable[[Status], object]


def silent(status: Status) -> None:
    """Tells nobody."""


class Counter:
    """Adds up what is done, from any thread, and tells it.

    Args:
        progress: who is told.
        what: is being done.
        total: how much it will be.
    """

    def __init__(self, progress: Progress, what: str, total: int) -> None:
        self._progress, self._what, self._total = progress, what, total
        self._done = 0
        self._guard = threading.Lock()
        self._start = time.perf_counter()

    def __call__(self, just: int) -> None:
        """Takes in what was just done."""
        with self._guard:  # what is told never goes back
            self._done += just
            left = self._total - self._done
            spent = time.perf_counter() - self._start
            seconds = spent / self._done * left if self._done and left >= 0 else None
            self._progress(Status(self._what, self._done, self._total, "bytes", seconds))
