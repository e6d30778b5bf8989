"""Makes one weight file of an output.

Tensors run on threads, as reading, hashing, numpy's kernels and writing all release the
interpreter; the thread that started them hashes whole files in order meanwhile, and another one
brings what is written to the disk.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Executor as Pool
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unmergeable.checkpoint.header import Header, TensorEntry
from unmergeable.checkpoint.plan import Transform
from unmergeable.checkpoint.remote import Place
from unmergeable.checkpoint.source import Bytes, Source, check_unchanged, open_source
from unmergeable.errors import UnmergeableError
from unmergeable.executors.executor import Progress

# Tensors in memory for one job at most: what is read, what is written, what stood there before.
COPIES = 3
# Bytes written before they are sent on to the disk, which otherwise would idle until the end.
FLUSH = 256 << 20
# Bytes per write: one huge write makes the page cache allocate slowly.
CHUNK = 1 << 20


@dataclass(frozen=True)
class Written:
    """A file that is written, but perhaps not on the disk yet.

    Attributes:
        note: for the journal: its hashes.
        synced: done when it is on the disk.
    """

    note: dict[str, object]
    synced: Future[None]


@dataclass(frozen=True)
class Work:
    """What making one file needs.

    Attributes:
        transform: the change of one tensor's bytes.
        hash_files: the side whose files are hashed as a whole: "input" or "output".
        origins: for each tensor that is written, the file and the entry of the one that is read.
        budget: bytes of tensors in flight.
        pool: where tensors are made.
        disk: one thread that brings what is written to the disk.
        progress: called with the number of bytes just done.
    """

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
        return 2 if stays or self.hash_files == "output" else COPIES


def rewrite_shard(header: Header, file: Path, work: Work) -> Written:
    """Makes one output file.

    Args:
        header: of the input file in whose place it will stand.
        file: what to write.
        work: how.

    Raises:
        InputError: an input that was cut or changed meanwhile.
        UnmergeableError: as `work.transform` does.
        OSError: what the system refused.
    """
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
        for path, planned in read.items():
            check_unchanged(planned, sources[path])
    except BaseException:
        for _, future in flight:
            if not future.cancel():
                future.exception()  # wait: the files below are still in its hands
        work.disk.submit(os.close, target)  # which comes after its flushes
        raise
    finally:
        for source in sources.values():
            source.close()

    def sync() -> None:
        try:
            for flush in flushes:
                flush.result()  # the disk tells of an error once
            os.fsync(target)
        finally:
            os.close(target)

    return Written({"sha256": whole.hexdigest(), "tensors": digests}, work.disk.submit(sync))


def _write_at(descriptor: int, data: Bytes, start: int) -> None:
    view, done = np.ascontiguousarray(data).data, 0
    while done < data.nbytes:
        done += os.pwrite(descriptor, view[done : done + CHUNK], start + done)
