"""The journal of an output that is growing: whose folder it is, and which files are finished.

A text file that is only ever appended to. Its first line, `unmergeable partial 1 WORK`, is what the
folder is recognised by; such a line further down says that other work began there. Every other line
is JSON, a file's name and the note of it, null once it is not finished any more; a line that was
cut short counts for nothing. The process that holds the lock on the file is the run at work.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from unmergeable.checkpoint.header import parse_json

JOURNAL = ".journal"
_MAGIC = b"unmergeable partial 1 "
_PUBLISHING = b"publishing %d"
# A model of 200,000 tensors has a journal of 50 MB. What is larger than these is none of ours.
_MOST, _LINE = 1 << 30, 16 << 20
_FLAGS = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK


class NotOursError(Exception):
    """A file or folder that this tool did not make, or that others may write; says why."""


class BusyError(Exception):
    """Another run is at work, or has just ended."""


class Journal:
    """An open journal, locked until it is closed.

    Args:
        descriptor: of the file; closed if the journal cannot be had.
        place: the file's name in its folder, or its path.
        folder: the open folder that it is in; None for a path.
        owner: the user that it must belong to.

    Raises:
        NotOursError: not a file of this user's alone, or not a journal.
        BusyError: another run has it.
    """

    def __init__(self, descriptor: int, place: str | Path, folder: int | None, owner: int) -> None:
        self._descriptor = descriptor
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                raise NotOursError(f"{place} is not a file, or has another name as well")
            if status.st_uid != owner:
                raise NotOursError(f"{place} belongs to another user")
            _lock(descriptor, place, folder)
            start = os.pread(descriptor, len(_MAGIC), 0)
            if not (start == _MAGIC or self.empty) or not _MAGIC.startswith(start):
                raise NotOursError(f"{place} is not a journal of this tool")
            if status.st_size > _MOST:
                raise NotOursError(f"{place} is too large")
        except BaseException:
            os.close(descriptor)
            raise

    @classmethod
    def open(cls, place: str | Path, folder: int | None, owner: int) -> Journal | None:
        """Opens a journal; None if there is none. See the class for the arguments and errors."""
        try:
            descriptor = os.open(place, _FLAGS, dir_fd=folder)
        except FileNotFoundError:
            return None
        except OSError as error:  # a link, a folder, a socket
            raise NotOursError(f"{place} cannot be opened ({error.strerror})") from None
        return cls(descriptor, place, folder, owner)

    @classmethod
    def create(cls, folder: int) -> Journal:
        """Makes an empty journal in an open folder.

        Raises:
            BusyError: another run was faster.
        """
        try:
            descriptor = os.open(JOURNAL, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
        except FileExistsError:
            raise BusyError from None
        return cls(descriptor, JOURNAL, folder, os.fstat(folder).st_uid)

    @property
    def empty(self) -> bool:
        """Whether it ends before the first line does: its run was killed when it had begun."""
        return os.fstat(self._descriptor).st_size < len(_MAGIC)

    def begin(self, work: str) -> None:
        """Says that a piece of work begins here, and that no file of it is finished."""
        if self.empty:
            os.ftruncate(self._descriptor, 0)
            self._append(_MAGIC + work.encode())
        else:
            self._append(b"\n" + _MAGIC + work.encode())  # the last line may have been cut short

    def go_on(self) -> None:
        """Says nothing, so that what is said next stands in a line of its own."""
        self._append(b"")

    def note(self, name: str, note: Any) -> None:
        """Says that a file is finished; null, that it is not."""
        self._append(json.dumps([name, note]).encode())

    def publishing(self, folder: int) -> None:
        """Says that an open folder is complete; it is known by its journal outside from now on."""
        self._append(b"\n" + _PUBLISHING % os.fstat(folder).st_ino)

    def is_of(self, folder: int) -> bool:
        """Whether it was of this open folder when it came out of it."""
        last = b""
        for line in self._lines():
            last = line
        return last == _PUBLISHING % os.fstat(folder).st_ino

    def notes(self, work: str, there: Callable[[str], bool]) -> dict[str, Any] | None:
        """The files that are finished, by name; None if other work began here last.

        Args:
            work: its name.
            there: whether a file of that name may be one; others are passed over.
        """
        found: dict[str, Any] = {}
        ours = False
        for line in self._lines():
            if line.startswith(_MAGIC):
                ours, found = line == _MAGIC + work.encode(), {}
            elif ours:
                try:
                    name, note = parse_json(line)
                except (ValueError, TypeError):  # a line that a kill cut short
                    continue
                if isinstance(name, str) and there(name):
                    found[name] = note
        return {name: note for name, note in found.items() if note is not None} if ours else None

    def remove(self, place: str | Path, folder: int | None = None) -> None:
        """Removes its name at a place, if it has one there."""
        with suppress(FileNotFoundError):
            there = os.stat(place, dir_fd=folder, follow_symlinks=False)
            if os.path.samestat(there, os.fstat(self._descriptor)):
                os.unlink(place, dir_fd=folder)

    def close(self) -> None:
        """Lets go of the lock."""
        os.close(self._descriptor)

    def _lines(self) -> Iterator[bytes]:
        """All lines that are complete, without their ends."""
        with os.fdopen(os.dup(self._descriptor), "rb") as file:
            file.seek(0)
            whole = True
            while line := file.readline(_LINE):
                if line.endswith(b"\n"):
                    if whole:
                        yield line[:-1]
                    whole = True
                else:
                    whole = False

    def _append(self, line: bytes) -> None:
        data = memoryview(line + b"\n")
        while data:
            data = data[os.write(self._descriptor, data) :]
        os.fsync(self._descriptor)


def _lock(descriptor: int, place: str | Path, folder: int | None) -> None:
    """Locks a file that still stands where it was opened.

    Raises:
        BusyError: another run has it, or has published meanwhile.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        there = os.stat(place, dir_fd=folder, follow_symlinks=False)
    except OSError:
        raise BusyError from None
    if not os.path.samestat(there, os.fstat(descriptor)):
        raise BusyError
