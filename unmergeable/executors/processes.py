"""Jobs in processes of this machine, one item in each at a time: for items that compute for long.

Threads share one interpreter; what computes in Python, or keeps a library's state to itself, needs
a process of its own.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

from unmergeable.errors import ClusterError
from unmergeable.executors.executor import (
    SERIAL,
    Advance,
    Executor,
    Finished,
    Job,
    executor_of,
)
from unmergeable.machine import cores


@dataclass(frozen=True)
class Processes:
    """Processes of this machine, among which items are handed out.

    Attributes:
        count: processes; each may use its share of the processors.
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
        count = min(self.count, len(items))
        if not count:
            return
        threads = max(1, cores() // count)
        context = multiprocessing.get_context("spawn")  # a library's threads do not survive a fork
        others = set(multiprocessing.active_children())
        with ProcessPoolExecutor(count, context, _end_with_parent) as pool:
            futures = {pool.submit(_do_item, job, item, secret, threads): item for item in items}
            try:
                for future in as_completed(futures):
                    try:
                        result, done = future.result()
                    except BrokenProcessPool:
                        raise ClusterError(
                            f"a process died at {futures[future]} or beside it, of memory perhaps. "
                            "What is finished is kept: run the same command again to go on."
                        ) from None
                    advance(done)
                    finished(futures[future], result)
            except BaseException:
                for future in futures:
                    future.cancel()
                for process in set(multiprocessing.active_children()) - others:
                    process.terminate()  # what it writes is absent or complete
                raise


def _end_with_parent() -> None:
    """Ends this process when the one that started it was killed: it would compute for nobody."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)  # whatever the main thread is at; what it writes is absent or complete

    threading.Thread(target=wait, daemon=True).start()


def _do_item(job: Job, item: str, secret: bytes, threads: int) -> tuple[Any, int]:
    """Does a job for one item, in a process of the pool; returns its result and bytes done."""
    made: list[Any] = []
    done: list[int] = []
    with job.started(secret, threads) as do:
        do([item], done.append, lambda _, result: made.append(result))
    (result,) = made
    return result, sum(done)


def computers_of(workers: str) -> Executor:
    """What a user means by workers for jobs that compute: numbers are processes.

    Args:
        workers: a number of processes, of which 1 means the caller's own; or a Ray cluster, as
            [`executor_of`][unmergeable.executors.executor.executor_of] takes it.

    Raises:
        InputError: anything else.
        MissingExtraError: ray is not installed.
    """
    executor = executor_of(workers)  # says what is wrong with it, if anything
    if not workers.isdecimal():
        return executor
    return SERIAL if executor == SERIAL else Processes(int(workers))
