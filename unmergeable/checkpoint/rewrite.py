"""Rewrites a model folder tensor by tensor, in memory bounded by the largest tensor.

Output files keep the input's names, headers and byte positions. Each tensor is one job: read its
bytes, change them, write them where they stood; `shard` does that. A few files are made side by
side, as threads that write one and the same wait for each other, and the last ones go to the disk,
or to a store, beside the next ones' work. A byte budget bounds what is in flight.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import NamedTuple

from unmergeable.checkpoint.digest import shard_digest, weights_digest
from unmergeable.checkpoint.folder import ModelFolder
from unmergeable.checkpoint.header import Header, TensorEntry
from unmergeable.checkpoint.in_order import in_order
from unmergeable.checkpoint.plan import Given, Plan, Transform
from unmergeable.checkpoint.shard import Made, Shard, Work, naming
from unmergeable.checkpoint.staging import Output
from unmergeable.errors import ClusterError, InputError, UnmergeableError
from unmergeable.executors.executor import Do, Executor, Finished, Inline, executor_of
from unmergeable.executors.executor import Progress as Progress
from unmergeable.gauge.blas import one_thread
from unmergeable.memory import Arena

# Bytes of tensors in flight; more where the largest tensor needs more.
BUDGET = 384 << 20
# What is left for the others while the largest tensor is worked on.
_BESIDE = 128 << 20


@dataclass(frozen=True)
class Side:
    """One side of a rewriting: what was read, or what was written; `digest` says of what each is.

    Attributes:
        files: the digest of each weight file.
        weights: the digest of all weights.
    """

    files: dict[str, str]
    weights: str

    @classmethod
    def of(cls, folder: ModelFolder, digests: Mapping[str, str]) -> Side:
        """The side of a folder whose tensors have these digests."""
        files = {header.path.name: shard_digest(header, digests) for header in folder.files}
        return cls(files, weights_digest(folder.tensors, digests))


class Rewritten(NamedTuple):
    """What was learned while rewriting."""

    read: Side
    written: Side


def rewrite(
    folder: ModelFolder,
    staging: Output,
    transform: Transform,
    *,
    source: Callable[[str], str] = lambda name: name,
    workers: int | None = None,
    progress: Progress = lambda done: None,
) -> Rewritten:
    """Writes the changed weight files into a staging folder, by functions that only exist here.

    Args:
        folder: the input.
        staging: where; files it has finished already are not made again.
        transform: the change of one tensor's bytes; same size out as in. It gets the tensor that
            is read, and gives what stands under the name that asked for it.
        source: the tensor to read for each name; a permutation of the names. It may be in another
            file.
        workers: threads; default: the processors at hand.
        progress: called with the number of bytes just finished.

    Raises:
        InputError: a disk without room, an input that was cut or changed meanwhile.
        UnmergeableError: as `transform` does.
        OSError: a full disk, an input that cannot be read; `staging` makes a sentence of it.
    """
    plan = Plan.of(folder, Given(transform, source), staging)
    return carry_out(plan, staging, executor_of(workers), progress=progress)


def carry_out(
    plan: Plan,
    staging: Output,
    executor: Executor,
    *,
    secret: bytes = b"",
    progress: Progress = lambda done: None,
) -> Rewritten:
    """Makes the weight files of a plan, wherever the executor runs; see `rewrite`.

    Args:
        plan: for this staging.
        staging: where; files it has finished already are not made again.
        executor: what makes them.
        secret: what the plan's recipe needs.
        progress: called with the number of bytes just finished.

    Raises:
        UnmergeableError: as `rewrite` and the recipe do; `ClusterError` where machines were lost.
        OSError: as `rewrite`.
    """
    sizes = {header.path.name: header.file_size for header in plan.folder.files}
    todo = [name for name in sizes if name not in staging.done]
    _check_space(staging, [sizes[name] for name in todo])
    for name in sizes.keys() - todo:
        progress(sizes[name])
    staging.begin(todo)
    try:
        executor.run(Shards(plan), todo, secret=secret, progress=progress, finished=staging.finish)
    except ClusterError:
        raise
    except UnmergeableError:
        staging.discard()  # the same call would be refused again
        raise
    notes = [staging.done[name] for name in sizes]
    read, written = (
        {name: digest for note in notes for name, digest in note[side].items()}
        for side in ("read", "written")
    )
    return Rewritten(Side.of(plan.folder, read), Side.of(plan.folder, written))


def _check_space(staging: Output, sizes: list[int]) -> None:
    staging.target.check_space(sizes)


@dataclass(frozen=True)
class Shards:
    """The job of making a plan's weight files, an item each.

    Attributes:
        plan: what to make.
    """

    plan: Plan

    @contextmanager
    def started(self, secret: bytes, threads: int) -> Iterator[Do]:
        """See `Job`; the result is the file's note for the journal."""
        folder = self.plan.folder
        moves = self.plan.recipe.opened(secret)
        headers = {header.path.name: header for header in folder.files}
        found = {entry.name: (header, entry) for header in folder.files for entry in header.tensors}
        largest = moves.copies * max((entry.size for _, entry in found.values()), default=0)
        # Without threads nothing is gained by having more than one tensor at a time.
        budget = max(BUDGET, largest + min(BUDGET, _BESIDE)) if threads else 0
        arena = Arena(max(budget, largest))
        together = min(max(1, threads), self.plan.target.together)
        late: deque[Future[None]] = deque()  # files on their way to the disk, or to a store
        with ExitStack() as stack:
            stack.enter_context(one_thread())  # tensors run side by side already
            pool = stack.enter_context(ThreadPoolExecutor(threads) if threads else Inline())
            disk = stack.enter_context(ThreadPoolExecutor(1) if threads else Inline())

            def begin(name: str, progress: Progress) -> _Begun:
                origins = _origins(headers[name], found, moves.source)
                work = Work(moves.pieces, arena, disk, progress)
                with ExitStack() as making:
                    with naming(name):
                        file = making.enter_context(self.plan.target.making(name))
                    shard = making.enter_context(Shard(headers[name], origins, file, work))
                    return _Begun(shard, deque(headers[name].tensors), making.pop_all())

            def do(names: Sequence[str], progress: Progress, finished: Finished) -> None:
                def finish(begun: _Begun) -> None:
                    note, synced = begun.shard.finish()
                    making = begun.making.pop_all()

                    def complete() -> None:
                        with making, naming(begun.shard.name):
                            synced.result()
                        finished(begun.shard.name, note)

                    late.append(disk.submit(complete))
                    while len(late) > together:
                        late.popleft().result()

                def opened() -> Iterator[_Begun]:
                    for name in names:
                        begun = begin(name, progress)
                        unfinished.push(begun.making)
                        if begun.left:
                            yield begun
                        else:
                            finish(begun)

                with ExitStack() as unfinished:
                    jobs = _alternating(opened(), together, moves.copies)
                    landing = unfinished.enter_context(closing(in_order(pool, jobs, budget)))
                    for begun, made in landing:
                        begun.flying -= made.entry.size
                        begun.shard.landed(made)
                        if not begun.shard.missing:
                            finish(begun)

            try:
                yield do
            except BaseException:
                for future in late:  # what is finished all the same is kept
                    with suppress(OSError, UnmergeableError):
                        future.result()
                raise
            for future in late:
                future.result()


@dataclass(eq=False)
class _Begun:
    """A file that is being made.

    Attributes:
        shard: it.
        left: its tensors that no thread was told of.
        making: what ends when the file is complete.
        flying: bytes of its tensors that threads were told of, and that are not landed.
    """

    shard: Shard
    left: deque[TensorEntry]
    making: ExitStack
    flying: int = 0


def _alternating(
    files: Iterator[_Begun], together: int, copies: int
) -> Iterator[tuple[int, Callable[[], tuple[_Begun, Made]]] | None]:
    """The jobs of several files, such that those in flight are of as many files as may be.

    Args:
        files: begins the next one.
        together: how many at a time, until all of their tensors are landed.
        copies: of a tensor, that a job holds.

    Yields:
        The bytes that a job needs, and what to call; None if something must land first.
    """

    def make(begun: _Begun, entry: TensorEntry) -> tuple[_Begun, Made]:
        return begun, begun.shard.make(entry)

    some: list[_Begun] = []
    while True:
        some = [begun for begun in some if begun.shard.missing]
        some += islice(files, together - len(some))
        if not some:
            return
        ready = [begun for begun in some if begun.left]
        if not ready:
            yield None
            continue
        least = min(ready, key=lambda begun: begun.flying)
        entry = least.left.popleft()
        least.flying += entry.size
        yield copies * entry.size, partial(make, least, entry)


def _origins(
    header: Header,
    found: Mapping[str, tuple[Header, TensorEntry]],
    source: Callable[[str], str],
) -> dict[str, tuple[Header, TensorEntry]]:
    """For each tensor that is written, the file and the entry of the one that is read.

    Raises:
        InputError: two tensors that would change places and are stored differently.
    """
    origins = {entry.name: found[source(entry.name)] for entry in header.tensors}
    for entry in header.tensors:
        origin = origins[entry.name][1]
        if (origin.dtype, origin.shape) != (entry.dtype, entry.shape):
            raise InputError(
                f"{entry.name} is stored as {entry.dtype} {entry.shape} and {origin.name} as "
                f"{origin.dtype} {origin.shape}, so that they cannot change places. Store all "
                "experts of a layer alike, or leave their space out with --set spaces=..."
            )
    return origins
