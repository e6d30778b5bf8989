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
        unit: bytes, or steps.
    """

    def __init__(
        self,
        progress: Progress,
        what: str,
        total: int,
        unit: Literal["bytes", "steps"] = "bytes",
    ) -> None:
        self._progress, self._what, self._total, self._unit = progress, what, total, unit
        self._done = self._found = 0
        self._guard = threading.Lock()
        self._start = time.perf_counter()

    def __call__(self, just: int, what: str = "") -> None:
        """Takes in what was just done; and what that was, if not what the whole is called."""
        with self._guard:  # what is told never goes back
            self._done += just
            left, made = self._total - self._done, self._done - self._found
            spent = time.perf_counter() - self._start
            seconds = spent / made * left if made and left >= 0 else None
            told: Status = Status(what or self._what, self._done, self._total, self._unit, seconds)
            self._progress(told)

    def skip(self, found: int) -> None:
        """Takes in what an earlier run did: it says nothing of how long the rest will take."""
        with self._guard:
            self._done += found
            self._found += found
