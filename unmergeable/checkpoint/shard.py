"""Makes one weight file of an output.

Tensors run on threads, as reading, hashing, the kernels and writing all release the
interpreter; another one brings what is written to the disk.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import Executor as Pool
from concurrent.futures import Future
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from blake3 import blake3

from unmergeable.checkpoint.header import Header, TensorEntry
from unmergeable.checkpoint.in_order import in_order
from unmergeable.checkpoint.plan import Pieces
from unmergeable.checkpoint.remote import Place
from unmergeable.checkpoint.source import PIECE, See, Source, check_unchanged, open_source
from unmergeable.errors import UnmergeableError
from unmergeable.executors.executor import Progress
from unmergeable.memory import Arena, Bytes

# Tensors in memory for one job at most: what is read and what is written.
COPIES = 2
# Bytes written before they are sent on to the disk, which otherwise would idle until the end.
FLUSH = 256 << 20


@dataclass(frozen=True)
class Written:
    """A file that is written, but perhaps not on the disk yet.

    Attributes:
        note: for the journal: the digest of each tensor that was read, and of each that was
            written, by their names.
        synced: done when it is on the disk.
    """

    note: dict[str, object]
    synced: Future[None]


@dataclass(frozen=True)
class Work:
    """What making one file needs.

    Attributes:
        pieces: the change of one tensor's bytes.
        origins: for each tensor that is written, the file and the entry of the one that is read.
        budget: bytes of tensors in flight.
        arena: the memory that they borrow.
        pool: where tensors are made.
        disk: one thread that brings what is written to the disk.
        progress: called with the number of bytes just done.
    """

    pieces: Pieces
    origins: Mapping[str, tuple[Header, TensorEntry]]
    budget: int
    arena: Arena
    pool: Pool
    disk: Pool
    progress: Progress


def rewrite_shard(header: Header, file: Path, work: Work) -> Written:
    """Makes one output file.

    Args:
        header: of the input file in whose place it will stand.
        file: what to write.
        work: how.

    Raises:
        InputError: an input that was cut or changed meanwhile.
        UnmergeableError: as `work.pieces` does.
        OSError: what the system refused.
    """
    target = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    flushes: list[Future[None]] = []
    try:
        note = _fill(target, header, work, flushes)
    except BaseException:
        work.disk.submit(os.close, target)  # which comes after its flushes
        raise

    def sync() -> None:
        try:
            for flush in flushes:
                flush.result()  # the disk tells of an error once
            os.fsync(target)
        finally:
            os.close(target)

    return Written(note, work.disk.submit(sync))


def _fill(
    target: int, header: Header, work: Work, flushes: list[Future[None]]
) -> dict[str, object]:
    """Writes one file and starts to bring it to the disk; returns its note for the journal."""
    read_digests: dict[str, str] = {}
    written_digests: dict[str, str] = {}
    unflushed = 0
    read = {h.path: h for h in (header, *(h for h, _ in work.origins.values()))}
    sources: dict[Place, Source] = {}
    with ExitStack() as stack:
        for path, planned in read.items():
            sources[path] = open_source(path)
            stack.callback(sources[path].close)
            check_unchanged(planned, sources[path])

        def job(entry: TensorEntry) -> tuple[TensorEntry, str, str]:
            path, origin = work.origins[entry.name][0].path, work.origins[entry.name][1]
            before, after, done = blake3(), blake3(), entry.start
            data = sources[path].read(origin, before.update)
            try:
                for piece in work.pieces(origin, data):
                    _write_at(target, piece, done, after.update)
                    done += piece.nbytes
            except UnmergeableError as error:
                raise type(error)(f"{origin.name} in {path.name}: {error}") from None
            if done != entry.start + entry.size:
                raise AssertionError(f"{entry.name} changed its size")
            return entry, before.hexdigest(), after.hexdigest()

        _write_at(target, np.frombuffer(header.raw, np.uint8), 0, lambda piece: None)
        run = work.arena.used()(job)
        jobs = ((COPIES * entry.size, partial(run, entry)) for entry in header.tensors)
        landing = stack.enter_context(closing(in_order(work.pool, jobs, work.budget)))
        for entry, before, after in landing:
            read_digests[work.origins[entry.name][1].name] = before
            written_digests[entry.name] = after
            work.progress(entry.size)
            unflushed += entry.size
            if unflushed > FLUSH:
                flushes.append(work.disk.submit(os.fdatasync, target))
                unflushed = 0
        for path, planned in read.items():
            check_unchanged(planned, sources[path])
    return {"read": read_digests, "written": written_digests}


def _write_at(descriptor: int, data: Bytes, start: int, see: See) -> None:
    view, done = np.ascontiguousarray(data).data, 0
    while done < data.nbytes:
        piece = view[done : done + PIECE]
        see(piece)
        while piece:
            count = os.pwrite(descriptor, piece, start + done)
            done, piece = done + count, piece[count:]
