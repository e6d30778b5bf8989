"""Makes the weight files of a plan, a few side by side.

Threads that write one file wait for each other, so each is given a tensor of another file where it
can be. Each tensor is one job: read its bytes, change them, write them where they stood; `shard`
does that. The last files go to the disk, or to a store, beside the next ones' work. A byte budget
bounds what is in flight.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor as Pool
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

from unmergeable.checkpoint.header import Header, TensorEntry
from unmergeable.checkpoint.in_order import in_order
from unmergeable.checkpoint.plan import Moves, Plan
from unmergeable.checkpoint.shard import Made, Shard, Work, naming
from unmergeable.errors import InputError, UnmergeableError
from unmergeable.executors.executor import Advance, Do, Finished, Inline
from unmergeable.gauge.blas import one_thread
from unmergeable.gauge.memory import Arena

# Bytes of tensors in flight; more where the largest tensor needs more.
BUDGET = 384 << 20
# What is left for the others while the largest tensor is worked on.
BESIDE = 128 << 20


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
        moves = self.plan.recipe.opened(secret)
        sizes = (entry.size for header in self.plan.folder.files for entry in header.tensors)
        largest = moves.copies * max(sizes, default=0)
        # Without threads nothing is gained by having more than one tensor at a time.
        budget = max(BUDGET, largest + min(BUDGET, BESIDE)) if threads else 0
        together = min(max(1, threads), self.plan.target.together)
        with ExitStack() as stack:
            stack.enter_context(one_thread())  # tensors run side by side already
            pool = stack.enter_context(ThreadPoolExecutor(threads) if threads else Inline())
            disk = stack.enter_context(ThreadPoolExecutor(1) if threads else Inline())
            arena = Arena(max(budget, largest))
            workshop = _Workshop(self.plan, moves, budget, together, arena, pool, disk)
            try:
                yield workshop.make
            except BaseException:
                workshop.keep_what_is_finished()
                raise
            workshop.wait()


@dataclass(eq=False)
class _File:
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


@dataclass(frozen=True)
class _Workshop:
    """Where files are made.

    Attributes:
        plan: of them.
        moves: its recipe, opened.
        budget: bytes of tensors in flight.
        together: files that are made at a time.
        arena: memory for the tensors.
        pool: where they are made.
        disk: one thread that brings what is written to the disk.
        late: files on their way to the disk, or to a store.
    """

    plan: Plan
    moves: Moves
    budget: int
    together: int
    arena: Arena
    pool: Pool
    disk: Pool
    late: deque[Future[None]] = field(default_factory=deque)

    def make(self, names: Sequence[str], advance: Advance, finished: Finished) -> None:
        """Makes some files; the last ones are still on their way when it returns."""
        headers = {header.path.name: header for header in self.plan.folder.files}
        found = {
            entry.name: (header, entry) for header in headers.values() for entry in header.tensors
        }

        def files() -> Iterator[_File]:
            for name in names:
                file = self._begin(headers[name], found, advance)
                unfinished.push(file.making)
                if file.left:
                    yield file
                else:
                    self._finish(file, finished)

        with ExitStack() as unfinished:
            jobs = _alternating(files(), self.together, self.moves.copies)
            landing = unfinished.enter_context(closing(in_order(self.pool, jobs, self.budget)))
            for file, made in landing:
                file.flying -= made.entry.size
                file.shard.landed(made)
                if not file.shard.missing:
                    self._finish(file, finished)

    def wait(self) -> None:
        """Until all files are where they belong."""
        while self.late:
            self.late.popleft().result()

    def keep_what_is_finished(self) -> None:
        """As `wait`, after an error, which matters more than another of those files."""
        for future in self.late:
            with suppress(OSError, UnmergeableError):
                future.result()

    def _begin(
        self,
        header: Header,
        found: Mapping[str, tuple[Header, TensorEntry]],
        advance: Advance,
    ) -> _File:
        origins = _origins(header, found, self.moves.source)
        work = Work(self.moves, self.arena, self.disk, self.plan.target.lasting, advance)
        with ExitStack() as making:
            with naming(header.path.name):
                path = making.enter_context(self.plan.target.making(header.path.name))
            shard = making.enter_context(Shard(header, origins, path, work))
            return _File(shard, deque(header.tensors), making.pop_all())

    def _finish(self, file: _File, finished: Finished) -> None:
        note, synced = file.shard.finish()
        making = file.making.pop_all()

        def complete() -> None:
            with making, naming(file.shard.name):
                synced.result()
            finished(file.shard.name, note)

        self.late.append(self.disk.submit(complete))
        while len(self.late) > self.together:
            self.late.popleft().result()


def _alternating(
    files: Iterator[_File], together: int, copies: int
) -> Iterator[tuple[int, Callable[[], tuple[_File, Made]]] | None]:
    """The jobs of several files, such that those in flight are of as many files as may be.

    Args:
        files: begins the next one.
        together: how many at a time, until all of their tensors are landed.
        copies: of a tensor, that a job holds.

    Yields:
        The bytes that a job needs, and what to call; None if something must land first.
    """

    def make(file: _File, entry: TensorEntry) -> tuple[_File, Made]:
        return file, file.shard.make(entry)

    some: list[_File] = []
    while True:
        some = [file for file in some if file.shard.missing]
        some += islice(files, together - len(some))
        if not some:
            return
        ready = [file for file in some if file.left]
        if not ready:
            yield None
            continue
        least = min(ready, key=lambda file: file.flying)
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
