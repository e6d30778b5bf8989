"""Jobs on threads, their results in order, the bytes that they hold bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor, Future
from typing import TypeVar

Result = TypeVar("Result")


def in_order(
    pool: Executor, jobs: Iterable[tuple[int, Callable[[], Result]]], budget: int
) -> Generator[Result, None, None]:
    """Runs jobs and yields what they return, first one first.

    A generator: close it (`contextlib.closing`) before what the jobs use is taken away; it then
    waits for those that run. Whoever iterates should drop each result before asking for the next.

    Args:
        pool: where they run.
        jobs: the bytes that each needs and what to call; drawn only when there is room.
        budget: bytes that all jobs in flight may need together; one job always may run.
    """
    flight: deque[tuple[int, Future[Result]]] = deque()
    used = 0

    def first() -> Result:
        return flight.popleft()[1].result()

    try:
        for size, job in jobs:
            while flight and used + size > budget:
                done = flight[0][0]
                yield first()
                used -= done
            flight.append((size, pool.submit(job)))
            used += size
        while flight:
            yield first()
    finally:
        for future in [future for _, future in flight if not future.cancel()]:
            future.exception()  # waits
