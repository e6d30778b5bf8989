"""Weight files to read from: on this machine by positions in an open file, elsewhere by ranges."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from unmergeable.checkpoint.header import Header, TensorEntry, stamp_of
from unmergeable.checkpoint.remote import Place, RemotePath
from unmergeable.errors import InputError
from unmergeable.gauge.memory import Bytes, empty

# Bytes that are read or written at once: they stay in the processor's cache for the next reader.
# Huge writes are slow, too, as the page cache finds its pages one by one.
PIECE = 1 << 20
# Bytes of a whole file that are read at once: a request each, where it is at an address; enough for
# all cores.
_PART = 16 << 20
See = Callable[[memoryview], object]


class Source(Protocol):
    """An open weight file."""

    def read(self, entry: TensorEntry, see: See | None = None) -> Bytes:
        """One tensor's bytes.

        Args:
            entry: which.
            see: gets all of them, piece after piece, while they come.

        Raises:
            InputError: a file that ends too early.
            OSError: what the system refused.
        """

    def stamp(self) -> str:
        """A mark of the file as it is now, as `Header.stamp`."""

    def size(self) -> int:
        """How many bytes the file has now."""

    def close(self) -> None:
        """Lets go of the file."""


class LocalSource:
    """A file on this machine, or on a file system that it mounts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = os.open(path, os.O_RDONLY)

    def read(self, entry: TensorEntry, see: See | None = None) -> Bytes:
        """See `Source`."""
        data = empty(entry.size)
        view, done = data.data, 0
        while done < entry.size:
            piece = view[done : done + PIECE] if see else view[done:]
            count = os.preadv(self._descriptor, [piece], entry.start + done)
            if not count:
                raise _cut(entry, self._path)
            if see:
                see(piece[:count])
            done += count
        return data

    def stamp(self) -> str:
        """See `Source`."""
        return stamp_of(os.fstat(self._descriptor))

    def size(self) -> int:
        """See `Source`."""
        return os.fstat(self._descriptor).st_size

    def close(self) -> None:
        """See `Source`."""
        os.close(self._descriptor)


class RemoteSource:
    """A file that fsspec reaches; each tensor is one request, and threads may ask at once."""

    def __init__(self, path: RemotePath) -> None:
        self._path = path

    def read(self, entry: TensorEntry, see: See | None = None) -> Bytes:
        """See `Source`."""
        if not entry.size:  # there is no range of no bytes
            return np.empty(0, np.uint8)
        content = self._path.read_range(entry.start, entry.start + entry.size)
        if len(content) < entry.size:
            raise _cut(entry, self._path)
        if see:
            see(memoryview(content))
        return np.frombuffer(content, np.uint8)

    def stamp(self) -> str:
        """See `Source`."""
        return self._path.measure()[1]

    def size(self) -> int:
        """See `Source`."""
        return self._path.measure()[0]

    def close(self) -> None:
        """See `Source`."""


def open_source(path: Place) -> Source:
    """Opens a weight file.

    Raises:
        OSError: it is not there, or not to be read.
    """
    return RemoteSource(path) if isinstance(path, RemotePath) else LocalSource(path)


def parts_of(path: Place) -> Iterator[memoryview]:
    """A file's content, from its start to its end.

    Raises:
        InputError: a file that was cut meanwhile.
        OSError: it cannot be read.
    """
    source = open_source(path)
    try:
        size = source.size()
        for start in range(0, size, _PART):
            count = min(_PART, size - start)
            yield source.read(TensorEntry("content", "U8", (count,), start, count)).data
    finally:
        source.close()


def check_unchanged(header: Header, source: Source) -> None:
    """Refuses a file that is not what it was when its header was read.

    Raises:
        InputError: names it.
    """
    if source.stamp() != header.stamp:
        raise InputError(
            f"{header.path} was changed while it was being read. Nothing of this run is kept: "
            "run it again when the model is finished."
        )


def _cut(entry: TensorEntry, path: Place) -> InputError:
    return InputError(f"{entry.name} in {path.name} ends too early: its file was cut meanwhile.")
