"""The one interface through which independent jobs run, and the two kinds that stay here.

A job is data that says what is to be done for an item, such as a shard. The same job gives the same
results on every executor. What it needs in secret comes apart from it, so that the job itself may
lie in an object store.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor as Pool
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from unmergeable.errors import InputError
from unmergeable.machine import cores

Advance = Callable[[int], None]
Finished = Callable[[str, Any], None]
Do = Callable[[Sequence[str], Advance, Finished], None]


class Job(Protocol):
    """Something to be done for each of several items; it can be pickled."""

    def started(self, secret: bytes, threads: int) -> AbstractContextManager[Do]:
        """Makes ready on one machine; yields what does the job for some items.

        An item need not be finished when that returns, as what is written is still to come to the
        disk or to a store. All are when the context ends without an error.

        Args:
            secret: what the job needs and does not hold.
            threads: how many it may use; 0: none but the caller's.
        """


class Executor(Protocol):
    """Something that runs jobs."""

    def run(
        self,
        job: Job,
        items: Sequence[str],
        *,
        secret: bytes,
        advance: Advance,
        finished: Finished,
    ) -> None:
        """Does a job for each item.

        Args:
            job: what to do.
            items: for what.
            secret: what the job needs and does not hold.
            advance: called with the number of bytes just done.
            finished: called with an item and its result as soon as that is there; in any order, and
                not always from the caller's thread, but never twice at once.

        Raises:
            UnmergeableError: as the job does; `ClusterError` where machines were lost.
            OSError: as the job does.
        """


@dataclass(frozen=True)
class Threads:
    """On this machine, on several threads.

    Attributes:
        count: threads; 0 for none but the caller's.
    """

    count: int

    def run(
        self,
        job: Job,
        items: Sequence[str],
        *,
        secret: bytes,
        advance: Advance,
        finished: Finished,
    ) -> None:
        """See `Executor`."""
        with job.started(secret, self.count) as do:
            do(items, advance, finished)


SERIAL = Threads(0)


def executor_of(workers: int | str | None) -> Executor:
    """What a user means by workers.

    Args:
        workers: a number of threads, of which 1 means the caller's own; None for as many as there
            are processors at hand; "ray" for a Ray cluster that this machine is part of, or its
            address as ray://HOST:PORT.

    Raises:
        InputError: anything else.
        MissingExtraError: ray is not installed.
    """
    if workers is None:
        return Threads(cores())
    if isinstance(workers, str) and not workers.isdecimal():
        if workers != "ray" and not workers.startswith("ray://"):
            raise InputError(f"workers={workers!r}: give a number, ray, or ray://HOST:PORT.")
        from unmergeable.executors.on_ray import OnRay

        return OnRay(workers)
    count = int(workers)
    if count < 1:
        raise InputError(f"workers={workers}: it takes at least one.")
    return SERIAL if count == 1 else Threads(count)


class Inline(Pool):
    """A pool without threads: what is submitted is done at once."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """See `concurrent.futures.Executor`."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future
