"""Jobs on the machines of an existing Ray cluster: one task an item.

Ray schedules, and starts a task again elsewhere if its process or its machine is lost. What crosses
the wire: the job, which is public; results; and the secret, never in the clear. The secret is kept
by an actor, the keeper, which seals it for each task that asks: see `sealed`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from unmergeable.errors import ClusterError, UnmergeableError
from unmergeable.executors.executor import Advance, Finished, Job
from unmergeable.executors.sealed import Receiver, seal
from unmergeable.extras import optional
from unmergeable.version import __version__

# Processors that one item asks for, fewer where some machine has fewer.
PROCESSORS = 4
# Times that Ray starts a task again whose process or machine was lost.
RETRIES = 3
_PATIENCE = 30.0


class Keeper:
    """Holds a secret in one process of the cluster, and gives it to tasks, sealed for each."""

    def __init__(self) -> None:
        self._receiver = Receiver()
        self._secret = b""

    def public(self) -> bytes:
        """For the process that brings the secret."""
        return self._receiver.public

    def take(self, box: bytes) -> None:
        """Takes the secret, sealed."""
        self._secret = self._receiver.open(box)

    def give(self, public: bytes) -> bytes:
        """Seals the secret for a task."""
        return seal(self._secret, public)


@dataclass(frozen=True)
class Outcome:
    """What came of one item.

    Attributes:
        result: the job's.
        done: bytes finished.
        error: what the job raised on purpose, instead.
        keyless: the keeper was lost before the job could begin.
    """

    result: Any = None
    done: int = 0
    error: UnmergeableError | OSError | None = None
    keyless: bool = False


def do_item(job: Job, item: str, keeper: Any, threads: int, version: str) -> Outcome:
    """Does a job for one item, in a process of the cluster."""
    ray = optional("ray")
    if version != __version__:
        return Outcome(
            error=ClusterError(
                f"the cluster has unmergeable {__version__} and this machine {version}. Install "
                "the same release on both."
            )
        )
    receiver, done, result = Receiver(), 0, None

    def count(size: int) -> None:
        nonlocal done
        done += size

    def keep(item: str, given: Any) -> None:
        nonlocal result
        result = given

    try:
        box = ray.get(keeper.give.remote(receiver.public))
    except ray.exceptions.RayActorError:
        return Outcome(keyless=True)
    try:
        secret = receiver.open(box)
        with job.started(secret, threads) as do:
            do([item], count, keep)
        return Outcome(result, done)
    except (UnmergeableError, OSError) as error:
        return Outcome(error=error)


@dataclass(frozen=True)
class OnRay:
    """A Ray cluster.

    Attributes:
        address: "ray" for the one that this machine is part of, or ray://HOST:PORT.

    Raises:
        MissingExtraError: ray is not installed.
    """

    address: str

    def __post_init__(self) -> None:
        optional("ray")

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
        if not items:
            return
        ray = optional("ray")
        with connected(ray, self.address):
            try:
                _Run(ray, job, secret).run(list(items), advance, finished)
            except ray.exceptions.RayError as error:
                raise _lost("its first tasks", error) from None


class _Run:
    """One job on a cluster that this process has joined."""

    def __init__(self, ray: Any, job: Job, secret: bytes) -> None:
        self._ray, self._secret = ray, secret
        self._processors = _processors(ray)
        self._job = ray.put(job)
        self._keepers = [_keeper(ray, secret)]
        self._task = ray.remote(num_cpus=self._processors, max_retries=RETRIES)(do_item)

    def run(self, items: Sequence[str], advance: Advance, finished: Finished) -> None:
        """See `Executor`."""
        # For each task its item, and how many keepers there were when it began.
        pending = dict(self._start(item) for item in items)
        try:
            while pending:
                (ready, *_), _ = self._ray.wait(list(pending))
                item, keepers = pending.pop(ready)
                outcome = self._outcome(ready, item)
                if outcome.keyless:
                    if keepers == len(self._keepers):
                        self._replace_keeper(item)
                    pending.update([self._start(item)])
                    continue
                if outcome.error is not None:
                    raise outcome.error
                advance(outcome.done)
                finished(item, outcome.result)
        finally:
            _cancel(self._ray, list(pending))
            for keeper in self._keepers:
                self._ray.kill(keeper)

    def _start(self, item: str) -> tuple[Any, tuple[str, int]]:
        task = self._task.remote(self._job, item, self._keepers[-1], self._processors, __version__)
        return task, (item, len(self._keepers))

    def _outcome(self, ready: Any, item: str) -> Outcome:
        try:
            outcome: Outcome = self._ray.get(ready)
        except self._ray.exceptions.RayError as error:
            raise _lost(item, error) from None
        return outcome

    def _replace_keeper(self, item: str) -> None:
        if len(self._keepers) > RETRIES:
            raise ClusterError(f"the cluster gave up on {item}: it loses what holds the key.")
        self._keepers.append(_keeper(self._ray, self._secret))


@contextmanager
def connected(ray: Any, address: str) -> Iterator[None]:
    """Joins a cluster unless the caller has joined one, and leaves it again.

    Raises:
        ClusterError: there is none.
    """
    if ray.is_initialized():
        yield
        return
    try:
        ray.init(
            "auto" if address == "ray" else address, log_to_driver=False, configure_logging=False
        )
    except Exception as error:  # of many kinds, by what is missing
        text = (str(error).splitlines() or [type(error).__name__])[0]
        raise ClusterError(
            f"there is no Ray cluster at {address!r}: {text.rstrip('.')}. Start one with "
            "`ray start --head`."
        ) from None
    try:
        yield
    finally:
        ray.shutdown()


def _processors(ray: Any) -> int:
    """How many processors to ask for, so that every machine that has some can take part.

    Raises:
        ClusterError: no machine has any.
    """
    offered = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    if not any(offered):
        raise ClusterError("no machine of the cluster offers processors (num_cpus).")
    return min(PROCESSORS, *filter(None, offered))


def _keeper(ray: Any, secret: bytes) -> Any:
    """Starts a keeper, on this machine if the cluster has it, and brings it the secret."""
    options: dict[str, Any] = {"num_cpus": 0}
    if not ray.util.client.ray.is_connected():
        here = ray.get_runtime_context().get_node_id()
        near = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        options["scheduling_strategy"] = near(here, soft=False)
    keeper = ray.remote(Keeper).options(**options).remote()
    box = seal(secret, ray.get(keeper.public.remote()))
    ray.get(keeper.take.remote(box))
    return keeper


def _cancel(ray: Any, pending: list[Any]) -> None:
    """Stops what is not wanted any more, and waits until it has stopped."""
    if not pending:
        return
    for reference in pending:
        ray.cancel(reference, force=True)
    ray.wait(pending, num_returns=len(pending), timeout=_PATIENCE)


def _lost(item: str, error: Exception) -> ClusterError:
    cause = getattr(error, "cause", None) or error  # what a task raised, or what befell it
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    text = f"{type(cause).__name__}: {lines[0] if lines else ''}"
    return ClusterError(
        f"the cluster gave up on {item}: {text.rstrip('.: ')}. What is finished is kept: run "
        "the same command again to go on."
    )
