"""A function over independent arguments as a job, for any executor: here, processes, or Ray.

All workers must see one cache folder: what they make is found there, and only its name travels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from unmergeable.executors.executor import Advance, Do, Finished
from unmergeable.executors.processes import Processes, computers_of
from unmergeable.models.device import chosen, running_on

Given = TypeVar("Given")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Calls(Generic[Given, Result]):
    """A function, called once for each of several arguments.

    Attributes:
        function: of a module, so that other processes find it.
        given: the arguments; an item is the place of one, as a string.
        device: where models are run, as it was asked for.
    """

    function: Callable[[Given], Result]
    given: tuple[Given, ...]
    device: str = field(default_factory=chosen)

    @property
    def items(self) -> list[str]:
        """The names of all calls, in order."""
        return [str(place) for place in range(len(self.given))]

    @contextmanager
    def started(self, secret: bytes, threads: int) -> Iterator[Do]:
        """See [`Job`][unmergeable.executors.executor.Job]; nothing here is secret."""
        if threads:
            import torch

            torch.set_num_threads(threads)

        def do(items: Sequence[str], advance: Advance, finished: Finished) -> None:
            for item in items:
                finished(item, self.function(self.given[int(item)]))

        with running_on(self.device):
            yield do


def processes(workers: str) -> int:
    """How many processes of this machine a `--workers` takes.

    Raises:
        InputError: neither a number from 1 on, nor a Ray cluster.
    """
    executor = computers_of(workers)
    return executor.count if isinstance(executor, Processes) else 1


def run_all(
    function: Callable[[Given], Result],
    arguments: Iterable[Given],
    workers: str = "1",
    finished: Callable[[Result], Any] = lambda result: None,
) -> None:
    """Calls a function for each argument, and something else with each result as it comes.

    Args:
        function: of a module, so that other processes find it.
        arguments: what it is called with, one by one.
        workers: see [`computers_of`][unmergeable.executors.processes.computers_of]. With "1" it is
            called here, in the arguments' order.
        finished: what becomes of a result.
    """
    calls = Calls(function, tuple(arguments))
    computers_of(workers).run(
        calls,
        calls.items,
        secret=b"",
        advance=lambda done: None,
        finished=lambda item, result: finished(result),
    )
