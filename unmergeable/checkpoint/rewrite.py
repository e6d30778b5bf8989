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
import shutil
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from unmergeable.checkpoint.digest import weights_digest
from unmergeable.checkpoint.folder import ModelFolder
from unmergeable.checkpoint.header import Header, TensorEntry
from unmergeable.checkpoint.staging import Staging
from unmergeable.errors import InputError, UnmergeableError

# Bytes of tensors in flight, beyond the largest tensor's input and output.
BUDGET = 384 << 20
# Tensors in memory for one job at most: what is read, what is written, what stood there before.
_COPIES = 3
# Bytes written before they are sent on to the disk, which otherwise would idle until the end.
FLUSH = 256 << 20
# Bytes per write: one huge write makes the page cache allocate slowly.
CHUNK = 1 << 20
Bytes = npt.NDArray[np.uint8]
Transform = Callable[[TensorEntry, Bytes], Bytes]
Progress = Callable[[int], None]


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
    staging: Staging,
    transform: Transform,
    *,
    hash_files: Literal["input", "output"],
    source: Callable[[str], str] = lambda name: name,
    workers: int | None = None,
    progress: Progress = lambda done: None,
) -> Rewritten:
    """Writes the changed weight files into a staging folder.

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
        InputError: a disk without room, an input that was cut meanwhile.
        UnmergeableError: as `transform` does.
        OSError: a full disk, an input that cannot be read; `staging` makes a sentence of it.
    """
    _check_space(folder, staging)
    files: dict[str, str] = {}
    digests: dict[str, str] = {}
    threads = workers or len(os.sched_getaffinity(0))
    largest = max((entry.size for h in folder.files for entry in h.tensors), default=0)
    origins = _origins(folder, source)
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(threads))
        disk = stack.enter_context(ThreadPoolExecutor(1))
        budget = BUDGET + _COPIES * largest
        work = _Work(transform, hash_files, origins, budget, pool, disk, progress)
        for header in folder.files:
            name = header.path.name
            if name not in staging.done:
                try:
                    note = _rewrite_file(header, staging, work)
                except UnmergeableError:
                    staging.discard()  # the same call would be refused again
                    raise
                except OSError as error:
                    raise OSError(error.errno, error.strerror, name) from None
                staging.finish(name, note)
            else:
                progress(header.file_size)
            files[name] = staging.done[name]["sha256"]
            digests.update(staging.done[name]["tensors"])
    return Rewritten(files, weights_digest(folder.tensors, digests))


@dataclass(frozen=True)
class _Work:
    """What the files of one rewrite have in common; `rewrite` explains the fields."""

    transform: Transform
    hash_files: str
    origins: dict[str, tuple[Path, TensorEntry]]
    budget: int
    pool: ThreadPoolExecutor
    disk: ThreadPoolExecutor
    progress: Progress

    def name_hashed(self, entry: TensorEntry) -> str:
        """The name, on the side whose tensors are hashed, of what is written at an entry."""
        return self.origins[entry.name][1].name if self.hash_files == "output" else entry.name

    def copies(self, entry: TensorEntry) -> int:
        """How many tensors of its size are in memory while an entry is made."""
        stays = self.origins[entry.name][1] is entry
        return 2 if stays or self.hash_files == "output" else _COPIES


def _origins(
    folder: ModelFolder, source: Callable[[str], str]
) -> dict[str, tuple[Path, TensorEntry]]:
    """For each tensor that is written, the file and the entry of the one that is read.

    Raises:
        InputError: two tensors that would change places and are stored differently.
    """
    found = {entry.name: (h.path, entry) for h in folder.files for entry in h.tensors}
    origins = {name: found[source(name)] for name in found}
    for name, (_, origin) in origins.items():
        entry = found[name][1]
        if (origin.dtype, origin.shape) != (entry.dtype, entry.shape):
            raise InputError(
                f"{name} is stored as {entry.dtype} {entry.shape} and {origin.name} as "
                f"{origin.dtype} {origin.shape}, so that they cannot change places. Store all "
                "experts of a layer alike, or leave their space out with --set spaces=..."
            )
    return origins


def _rewrite_file(header: Header, staging: Staging, work: _Work) -> dict[str, object]:
    """Makes one output file under a temporary name; returns its note for the journal."""
    whole = hashlib.sha256(header.raw)
    digests: dict[str, str] = {}
    flight: deque[tuple[TensorEntry, Future[tuple[Bytes, str]]]] = deque()
    flushes: list[Future[None]] = []
    in_flight = unflushed = 0
    paths = {header.path} | {work.origins[entry.name][0] for entry in header.tensors}
    sources = {path: os.open(path, os.O_RDONLY) for path in paths}
    target = os.open(
        staging.path / f"{header.path.name}.tmp", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666
    )

    def job(entry: TensorEntry) -> tuple[Bytes, str]:
        path, origin = work.origins[entry.name]
        data = read_at(sources[path], origin)
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
        own = data if origin is entry else read_at(sources[header.path], entry)
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
        os.fsync(target)
    finally:
        unfinished: list[Future[Any]] = [*(future for _, future in flight), *flushes]
        for pending in unfinished:
            if not pending.cancel():
                pending.exception()  # wait: the files below are still in its hands
        for descriptor in (*sources.values(), target):
            os.close(descriptor)
    return {"sha256": whole.hexdigest(), "tensors": digests}


def read_at(descriptor: int, entry: TensorEntry) -> Bytes:
    """Reads one tensor's bytes.

    Raises:
        InputError: a file that ends too early.
    """
    data = np.empty(entry.size, np.uint8)
    view, done = data.data, 0
    while done < entry.size:
        count = os.preadv(descriptor, [view[done:]], entry.start + done)
        if not count:
            raise InputError(f"{entry.name} ends too early: its file was cut meanwhile.")
        done += count
    return data


def _write_at(descriptor: int, data: Bytes, start: int) -> None:
    view, done = np.ascontiguousarray(data).data, 0
    while done < data.nbytes:
        done += os.pwrite(descriptor, view[done : done + CHUNK], start + done)


def _check_space(folder: ModelFolder, staging: Staging) -> None:
    """Refuses early what will not fit."""
    todo = sum(h.file_size for h in folder.files if h.path.name not in staging.done)
    free = shutil.disk_usage(staging.path).free
    if todo > free:
        raise InputError(
            f"{staging.out} needs {todo / 1e9:.2f} GB, its disk has {free / 1e9:.2f} GB free."
        )
