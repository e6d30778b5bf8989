"""BLAKE3 digests of files and of weights: plain ones, which anyone can make again.

A manifest lists each file's own digest, as `b3sum` prints it. A file is written by several threads,
so `FileHash` takes its pieces in any order while they are written, and nothing is read twice.
Weights are digested tensor by tensor besides, so that it does not matter how they are sharded, in
which order they come, or which machine has which.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Mapping

from blake3 import blake3

from unmergeable.checkpoint.header import Header, TensorEntry
from unmergeable.checkpoint.remote import Place
from unmergeable.checkpoint.source import parts_of


def digest_of(content: bytes | memoryview) -> str:
    """BLAKE3 of bytes, in hexadecimal."""
    return blake3(content).hexdigest()


def file_digest(place: Place, advance: Callable[[int], object] = lambda done: None) -> str:
    """BLAKE3 of a file, in hexadecimal; all processors work on it.

    Args:
        place: the file.
        advance: called with the number of bytes just read.

    Raises:
        InputError: a file that was cut meanwhile.
        OSError: it cannot be read.
    """
    hasher = blake3(max_threads=blake3.AUTO)
    for part in parts_of(place):
        hasher.update(part)
        advance(part.nbytes)
    return hasher.hexdigest()


def digest_set(place: Place) -> dict[str, str]:
    """BLAKE3 and SHA-256 of a file, by the names that in-toto statements have for them.

    Args:
        place: the file; it is read once.

    Raises:
        InputError: a file that was cut meanwhile.
        OSError: it cannot be read.
    """
    ours, common = blake3(max_threads=blake3.AUTO), hashlib.sha256()
    for part in parts_of(place):
        ours.update(part)
        common.update(part)
    return {"sha256": common.hexdigest(), "blake3": ours.hexdigest()}


def weights_digest(entries: Mapping[str, TensorEntry], digests: Mapping[str, str]) -> str:
    """BLAKE3 over every tensor's name, dtype, shape and own digest, in order of the names.

    It does not depend on how the weights are sharded.

    Args:
        entries: the tensors.
        digests: the digest of each tensor's bytes.
    """
    whole = blake3()
    for name in sorted(entries):
        entry = entries[name]
        shape = ",".join(map(str, entry.shape))
        whole.update(f"{name}\0{entry.dtype}\0{shape}\0{digests[name]}\n".encode())
    return whole.hexdigest()


def headers_digest(headers: Iterable[Header]) -> str:
    """BLAKE3 over the weight files' names and the digests of their headers, in order of the names.

    Args:
        headers: all of a folder's.
    """
    lines = sorted(f"{header.path.name}\0{digest_of(header.raw)}\n" for header in headers)
    return digest_of("".join(lines).encode())


class FileHash:
    """BLAKE3 of a file whose pieces come from several threads, each piece once, in any order.

    A piece that comes too early is kept until those before it are there, and the thread that brings
    the one that was missing goes on with what was kept. So no thread waits for another, and what is
    kept is less than the tensors in flight.
    """

    def __init__(self) -> None:
        self._hasher = blake3()  # on one core: the threads that call it work side by side already
        self._lock = threading.Lock()
        self._early: dict[int, bytes] = {}
        self._done, self._busy = 0, False

    def update(self, piece: memoryview, start: int) -> None:
        """Takes a piece; from any thread.

        Args:
            piece: its bytes; they may change afterwards.
            start: where in the file they stand.
        """
        if not piece.nbytes:
            return
        with self._lock:
            if self._busy or start != self._done:
                self._early[start] = bytes(piece)
                return
            self._busy = True
        following: bytes | memoryview | None = piece
        while following is not None:
            self._hasher.update(following)
            with self._lock:
                self._done += memoryview(following).nbytes
                following = self._early.pop(self._done, None)
                self._busy = following is not None

    def hexdigest(self) -> str:
        """Of the whole file, all of whose pieces came."""
        if self._early:
            raise AssertionError(f"a piece at {self._done} is missing")
        return self._hasher.hexdigest()
