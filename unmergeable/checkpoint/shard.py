"""Makes one weight file of an output.

Its tensors are jobs for threads, as reading, hashing, the kernels and writing all release the
interpreter; `writeback` brings what is written to the disk meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor as Pool
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
from blake3 import blake3

from unmergeable.checkpoint.digest import FileHash
from unmergeable.checkpoint.header import Header, TensorEntry
from unmergeable.checkpoint.plan import Moves
from unmergeable.checkpoint.remote import Place, is_url
from unmergeable.checkpoint.row_parts import row_parts
from unmergeable.checkpoint.source import PIECE, Source, check_unchanged, open_source
from unmergeable.checkpoint.writeback import Writeback
from unmergeable.errors import UnmergeableError
from unmergeable.executors.executor import Advance
from unmergeable.gauge.memory import Arena, Bytes

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW


@dataclass(frozen=True)
class Work:
    """What making files needs.

    Attributes:
        moves: what happens to tensors.
        arena: the memory that tensors borrow.
        disk: one thread that brings what is written to the disk.
        lasting: whether files stay on this machine.
        advance: called with the number of bytes just done.
    """

    moves: Moves
    arena: Arena
    disk: Pool
    lasting: bool
    advance: Advance


class Made(NamedTuple):
    """A tensor that is written: its entry, and the digests of what was read and written, if any."""

    entry: TensorEntry
    before: str | None
    after: str | None


class Shard:
    """An output file while it is made; a context manager that lets go of its files after an error.

    Each of its tensors is to be made and landed, in any order; then it is to be finished.

    Args:
        header: of the input file in whose place it will stand.
        origins: for each tensor that is written, the file and the entry of the one that is read.
        file: what to write; it must not be there.
        work: how.

    Attributes:
        name: the file's, as the output has it.
        missing: how many tensors are not landed yet.

    Raises:
        InputError: an input that changed since the plan.
        OSError: what the system refused; the file's name is in it. So for all methods.
    """

    def __init__(
        self,
        header: Header,
        origins: Mapping[str, tuple[Header, TensorEntry]],
        file: Path,
        work: Work,
    ) -> None:
        self.name = header.path.name
        self.missing = len(header.tensors)
        self._origins, self._work = origins, work
        self._read: dict[str, str] = {}
        self._written: dict[str, str] = {}
        self._hash = FileHash()
        self._planned = {h.path: h for h in (header, *(h for h, _ in origins.values()))}
        self._sources: dict[Place, Source] = {}
        self._finished = False
        with ExitStack() as stack, naming(self.name):
            for path in self._planned:
                self._sources[path] = open_source(path)
                stack.callback(self._sources[path].close)
            self._check_unchanged()
            self._target = os.open(file, _NEW, 0o666)
            self._writeback = Writeback(self._target, work.disk, work.lasting)
            stack.callback(self._leave)
            self._write(np.frombuffer(header.raw, np.uint8), 0, None)
            self._closing = stack.pop_all()

    def __enter__(self) -> Shard:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.close()

    def make(self, entry: TensorEntry) -> Made:
        """Reads a tensor, changes it and writes it; from any thread.

        Raises:
            InputError: an input that was cut meanwhile.
            UnmergeableError: as `work.moves` do.
        """
        header, origin = self._origins[entry.name]
        moves = self._work.moves
        before = blake3() if moves.read else None
        after = blake3() if moves.written else None
        done = entry.start
        with self._work.arena.used(), naming(self.name):
            for part in row_parts(origin, moves.by_rows(origin)):
                source, see = self._sources[header.path], before.update if before else None
                try:
                    if moves.added is None:
                        data = source.read(part, see)
                    else:
                        data = moves.added(part, source.read(part))
                        if see is not None:
                            see(data.data)
                    for piece in moves.pieces(part, data):
                        self._write(piece, done, after)
                        done += piece.nbytes
                except UnmergeableError as error:
                    raise type(error)(f"{origin.name} in {header.path.name}: {error}") from None
        if done != entry.start + entry.size:
            raise AssertionError(f"{entry.name} changed its size")
        return Made(entry, *(one.hexdigest() if one else None for one in (before, after)))

    def landed(self, made: Made) -> None:
        """Takes note of a tensor that was made."""
        entry = made.entry
        if made.before is not None:
            origin = self._origins[entry.name][1]
            self._read[self._work.moves.read_as(origin.name)] = made.before
        if made.after is not None:
            self._written[entry.name] = made.after
        self.missing -= 1
        self._work.advance(entry.size)

    def finish(self) -> tuple[dict[str, object], Future[None]]:
        """Ends the file, all of whose tensors are there.

        Returns:
            The note for the journal: the file's digest, and those of the tensors that were read and
            that were written, by their names, as far as they are asked for; and what is done when
            the file is on the disk.

        Raises:
            InputError: an input that changed meanwhile.
        """
        with naming(self.name):
            self._check_unchanged()
        self._finished = True
        self._closing.close()
        note: dict[str, object] = {"read": self._read, "written": self._written}
        note["file"] = self._hash.hexdigest()
        return note, self._writeback.finish()

    def _write(self, data: Bytes, start: int, hasher: blake3 | None) -> None:
        view, done = np.ascontiguousarray(data).reshape(-1).view(np.uint8).data, 0
        while done < data.nbytes:
            piece = view[done : done + PIECE]
            if hasher:
                hasher.update(piece)
            self._hash.update(piece, start + done)
            while piece:
                count = os.pwrite(self._target, piece, start + done)
                done, piece = done + count, piece[count:]
                self._writeback.wrote(count)

    def _leave(self) -> None:
        if not self._finished:
            self._writeback.leave()

    def _check_unchanged(self) -> None:
        for path, planned in self._planned.items():
            check_unchanged(planned, self._sources[path])


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Says of which file an error of the operating system is."""
    try:
        yield
    except OSError as error:
        where = error.filename if is_url(error.filename) else name
        raise OSError(error.errno, error.strerror, where) from None
