"""Runs a function over independent jobs: here, in processes, or on a Ray cluster.

All workers must see one cache folder: what they make is found there, and only its name travels.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

from unmergeable.errors import InputError
from unmergeable.extras import optional

Job = TypeVar("Job")
Result = TypeVar("Result")

RAY = "ray"


def local(workers: str) -> int:
    """How many processes of this machine a `--workers` takes.

    Raises:
        InputError: neither a number from 1 on, nor "ray", nor an address of a Ray cluster.
    """
    if is_ray(workers):
        return 1
    if not workers.isdigit() or int(workers) < 1:
        raise InputError(
            f"--workers {workers!r}: give a number of processes, or {RAY} for the cluster that "
            "this machine is part of, or the address of one (ray://HOST:10001)."
        )
    return int(workers)


def is_ray(workers: str) -> bool:
    """Whether a `--workers` names a Ray cluster."""
    return workers == RAY or workers.startswith("ray://")


def run_all(
    function: Callable[[Job], Result], jobs: Iterable[Job], workers: str = "1"
) -> Iterator[Result]:
    """The results of a function for each job, as they come.

    Args:
        function: of a module, so that other processes find it.
        jobs: what it is called with, one by one.
        workers: see `local`. With "1" it is called here, in the jobs' order.
    """
    todo = list(jobs)
    if is_ray(workers):
        yield from _on_ray(function, todo, workers)
    elif (count := min(local(workers), len(todo))) <= 1:
        yield from map(function, todo)
    else:
        yield from _in_processes(function, todo, count)


def _in_processes(
    function: Callable[[Job], Result], jobs: list[Job], count: int
) -> Iterator[Result]:
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    threads = max(1, len(os.sched_getaffinity(0)) // count)
    with ProcessPoolExecutor(count, context, initializer=_begin, initargs=(threads,)) as pool:
        futures = [pool.submit(function, job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            for future in futures:
                future.cancel()


def _begin(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def _on_ray(function: Callable[[Job], Result], jobs: list[Job], address: str) -> Iterator[Result]:
    from unmergeable.executors.on_ray import connected

    ray = optional("ray")
    with connected(ray, address):
        remote = ray.remote(function)
        waiting = [remote.remote(job) for job in jobs]
        try:
            while waiting:
                (done, *_), waiting = ray.wait(waiting)
                yield ray.get(done)
        finally:
            for left in waiting:
                ray.cancel(left)
