"""Jobs on threads, their results in order, the bytes that they hold bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor, Future
from typing import TypeVar

Result = TypeVar("Result")


def in_order(
    pool: Executor, jobs: Iterable[tuple[int, Callable[[], Result]] | None], budget: int
) -> Generator[Result, None, None]:
    """Runs jobs and yields what they return, first one first.

    A generator: close it (`contextlib.closing`) before what the jobs use is taken away; it then
    waits for those that run. Callers should drop each result before asking for the next.

    Args:
        pool: where they run.
        jobs: the bytes that each needs and what to call; drawn only when there is room. None lets
            the first one in flight end before the next is drawn.
        budget: bytes that all jobs in flight may need together; one job always may run.
    """
    flight: deque[tuple[int, Future[Result]]] = deque()
    used = 0

    def first() -> Result:
        nonlocal used
        result = flight[0][1].result()  # and if that is interrupted, it is waited for below
        used -= flight.popleft()[0]
        return result

    try:
        for job in jobs:
            if job is None:
                if flight:
                    yield first()
                continue
            size, call = job
            while flight and used + size > budget:
                yield first()
            flight.append((size, pool.submit(call)))
            used += size
        while flight:
            yield first()
    finally:
        for future in [future for _, future in flight if not future.cancel()]:
            future.exception()  # waits
