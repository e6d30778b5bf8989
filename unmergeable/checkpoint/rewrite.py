"""Rewrites a model folder tensor by tensor, in memory bounded by the largest tensor.

Output files keep the input's names, headers and byte positions. Each tensor is one job: read its
bytes, change them, write them where they stood. Jobs run on threads, as reading, hashing, numpy's
kernels and writing all release the interpreter; the thread that started them hashes whole files in
order meanwhile, and another one brings what is written to the disk. A byte budget bounds what is
in flight.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor as Pool
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from unmergeable.checkpoint.digest import weights_digest
from unmergeable.checkpoint.folder import ModelFolder
from unmergeable.checkpoint.header import Header, TensorEntry
from unmergeable.checkpoint.plan import Given, Plan, Transform
from unmergeable.checkpoint.remote import Place, is_url
from unmergeable.checkpoint.source import Bytes as Bytes
from unmergeable.checkpoint.source import Source, check_unchanged, open_source
from unmergeable.checkpoint.staging import Output
from unmergeable.errors import ClusterError, InputError, UnmergeableError
from unmergeable.executors.executor import Do, Executor, Inline, executor_of
from unmergeable.executors.executor import Progress as Progress

# Bytes of tensors in flight, beyond the largest tensor's input and output.
BUDGET = 384 << 20
# Tensors in memory for one job at most: what is read, what is written, what stood there before.
_COPIES = 3
# Bytes written before they are sent on to the disk, which otherwise would idle until the end.
FLUSH = 256 << 20
# Bytes per write: one huge write makes the page cache allocate slowly.
CHUNK = 1 << 20


@dataclass(frozen=True)
class Rewritten:
    """What was learned while rewriting.

    Attributes:
        files: SHA-256 of each weight file, of the side that was asked for.
        weights: the digest of the other side's weights.
    """

    files: dict[str, str]
    weights: str


def rewrite(
    folder: ModelFolder,
    staging: Output,
    transform: Transform,
    *,
    hash_files: Literal["input", "output"],
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
        hash_files: the side whose files are hashed as a whole. Of the other side, each tensor is
            hashed, and all of them together make its weights digest.
        source: the tensor to read for each name; a permutation of the names. It may be in another
            file.
        workers: threads; default: the processors at hand.
        progress: called with the number of bytes just finished.

    Raises:
        InputError: a disk without room, an input that was cut or changed meanwhile.
        UnmergeableError: as `transform` does.
        OSError: a full disk, an input that cannot be read; `staging` makes a sentence of it.
    """
    plan = Plan.of(folder, Given(transform, source), hash_files, staging)
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
        with closing(executor.run(Shards(plan), todo, secret=secret, progress=progress)) as made:
            for name, note in made:
                staging.finish(name, note)
    except ClusterError:
        raise
    except UnmergeableError:
        staging.discard()  # the same call would be refused again
        raise
    notes = [staging.done[name] for name in sizes]
    digests = {name: digest for note in notes for name, digest in note["tensors"].items()}
    files = {name: note["sha256"] for name, note in zip(sizes, notes, strict=True)}
    return Rewritten(files, weights_digest(plan.folder.tensors, digests))


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
        largest = max((entry.size for _, entry in found.values()), default=0)
        # Without threads nothing is gained by having more than one tensor at a time.
        budget = BUDGET + _COPIES * largest if threads else 0
        with ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(threads) if threads else Inline())
            disk = stack.enter_context(ThreadPoolExecutor(1) if threads else Inline())

            def do(name: str, progress: Progress) -> dict[str, object]:
                header = headers[name]
                origins = _origins(header, found, moves.source)
                work = _Work(
                    moves.transform, self.plan.hash_files, origins, budget, pool, disk, progress
                )
                try:
                    with self.plan.target.making(name) as file:
                        return _rewrite_file(header, file, work)
                except OSError as error:
                    where = error.filename if is_url(error.filename) else name
                    raise OSError(error.errno, error.strerror, where) from None

            yield do


@dataclass(frozen=True)
class _Work:
    """What the files of one rewrite have in common; `rewrite` explains the fields."""

    transform: Transform
    hash_files: str
    origins: Mapping[str, tuple[Header, TensorEntry]]
    budget: int
    pool: Pool
    disk: Pool
    progress: Progress

    def name_hashed(self, entry: TensorEntry) -> str:
        """The name, on the side whose tensors are hashed, of what is written at an entry."""
        return self.origins[entry.name][1].name if self.hash_files == "output" else entry.name

    def copies(self, entry: TensorEntry) -> int:
        """How many tensors of its size are in memory while an entry is made."""
        stays = self.origins[entry.name][1] is entry
        return 2 if stays or self.hash_files == "output" else _COPIES


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


def _rewrite_file(header: Header, file: Path, work: _Work) -> dict[str, object]:
    """Makes one output file; returns its note for the journal."""
    whole = hashlib.sha256(header.raw)
    digests: dict[str, str] = {}
    flight: deque[tuple[TensorEntry, Future[tuple[Bytes, str]]]] = deque()
    flushes: list[Future[None]] = []
    in_flight = unflushed = 0
    read = {h.path: h for h in (header, *(h for h, _ in work.origins.values()))}
    sources: dict[Place, Source] = {}
    target = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)

    def job(entry: TensorEntry) -> tuple[Bytes, str]:
        path, origin = work.origins[entry.name][0].path, work.origins[entry.name][1]
        data = sources[path].read(origin)
        try:
            changed = work.transform(origin, data)
        except UnmergeableError as error:
            raise type(error)(f"{origin.name} in {path.name}: {error}") from None
        if changed.nbytes != entry.size:
            raise AssertionError(f"{entry.name} changed its size")
        _write_at(target, changed, entry.start)
        if work.hash_files == "output":
            return changed, hashlib.sha256(data.data).hexdigest()
        # The input file is hashed in its own order, so what stands here is read as well.
        own = data if origin is entry else sources[header.path].read(entry)
        return own, hashlib.sha256(changed.data).hexdigest()

    def land() -> None:
        nonlocal in_flight, unflushed
        entry, future = flight.popleft()
        data, digest = future.result()
        # Each digest is of one side of the rewriting, and goes by the name it has there.
        digests[work.name_hashed(entry)] = digest
        whole.update(data.data)
        work.progress(entry.size)
        in_flight -= work.copies(entry) * entry.size
        unflushed += entry.size
        if unflushed > FLUSH:
            flushes.append(work.disk.submit(os.fdatasync, target))
            unflushed = 0

    try:
        for path, planned in read.items():
            sources[path] = open_source(path)
            check_unchanged(planned, sources[path])
        os.posix_fallocate(target, 0, header.file_size)  # a disk too small says so now
        _write_at(target, np.frombuffer(header.raw, np.uint8), 0)
        for entry in header.tensors:
            size = work.copies(entry) * entry.size
            while flight and in_flight + size > work.budget:
                land()
            flight.append((entry, work.pool.submit(job, entry)))
            in_flight += size
        while flight:
            land()
        for flush in flushes:
            flush.result()
        for path, planned in read.items():
            check_unchanged(planned, sources[path])
        os.fsync(target)
    finally:
        unfinished: list[Future[Any]] = [*(future for _, future in flight), *flushes]
        for pending in unfinished:
            if not pending.cancel():
                pending.exception()  # wait: the files below are still in its hands
        for source in sources.values():
            source.close()
        os.close(target)
    return {"sha256": whole.hexdigest(), "tensors": digests}


def _write_at(descriptor: int, data: Bytes, start: int) -> None:
    view, done = np.ascontiguousarray(data).data, 0
    while done < data.nbytes:
        done += os.pwrite(descriptor, view[done : done + CHUNK], start + done)
