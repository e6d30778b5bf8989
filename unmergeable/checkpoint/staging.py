"""An output folder that is absent or complete.

Work goes into a hidden folder beside the output, `.NAME.partial`. Finished weight files are noted
in its journal, so that a run that was killed, or that filled the disk, continues where it was. Only
when all is there does the hidden folder take the output's name, in one rename. Where an output is
an address, on which nothing can be renamed, `remote_staging` does the same in another way.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from unmergeable.checkpoint.remote import Place
from unmergeable.checkpoint.target import TEMPORARY, FolderTarget, Target
from unmergeable.errors import InputError

_JOURNAL = ".journal"


class Output(Protocol):
    """A model folder that is being made; a context manager that clears up after failures."""

    @property
    def out(self) -> Place:
        """What it will be."""

    @property
    def done(self) -> Mapping[str, Any]:
        """The weight files that are finished, with what was noted of them."""

    @property
    def target(self) -> Target:
        """Where its weight files go."""

    def begin(self, names: Sequence[str]) -> None:
        """Says which weight files are going to be made."""

    def finish(self, name: str, note: Any) -> None:
        """Notes a weight file that the target has.

        Args:
            name: the file's.
            note: what a later run must know of it, as JSON.
        """

    def write_file(self, name: str, content: bytes) -> None:
        """Writes a small file of the output."""

    def publish(self) -> None:
        """Makes the output what it will be: from now on it is there, and complete."""

    def discard(self) -> None:
        """Removes everything: what was made is not worth resuming."""


class Staging:
    """The hidden folder in which an output grows.

    Args:
        out: the output folder; must be absent or empty.
        fingerprint: names the work. What an earlier run left is kept only if it was the same work;
            None for work that always starts anew.

    Raises:
        InputError: an output that is not empty, cannot be made, or is being made by another run.
    """

    def __init__(self, out: str | Path, fingerprint: str | None) -> None:
        self.out = Path(out).resolve()
        self.path = self.out.parent / f".{self.out.name}.partial"
        self._fingerprint = fingerprint
        self._done: dict[str, Any] = {}
        self._lock: int | None = None

    @property
    def done(self) -> Mapping[str, Any]:
        """The files that are finished, with what was noted of them."""
        return self._done

    @property
    def target(self) -> FolderTarget:
        """See `Output`."""
        return FolderTarget(self.path, self.out)

    def __enter__(self) -> Staging:
        self._check_free()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path / _JOURNAL, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise InputError(f"cannot write beside {self.out}: {error.strerror}.") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise InputError(f"another run is writing {self.out}. Wait for it.") from None
        try:
            self._resume()
        except OSError as error:
            os.close(self._lock)
            raise InputError(f"cannot write into {self.path}: {error.strerror}.") from None
        return self

    def _check_free(self) -> None:
        """Refuses an output that a rename could not replace."""
        if self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            raise InputError(f"{self.out} exists and is not an empty folder. Choose another name.")
        if self.out.is_mount():
            raise InputError(f"{self.out} is a mount point. Name a folder inside it.")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Clears unfinished files away; says in a sentence what the operating system refused.

        Raises:
            InputError: in place of an OSError.
        """
        assert self._lock is not None
        kept = bool(self._done) and self._fingerprint is not None
        try:
            if self.path.exists():  # not published
                self._clear() if kept else self.discard()
        finally:
            os.close(self._lock)
        if isinstance(error, OSError):
            raise refused(error, self.out, kept=kept) from None

    def _resume(self) -> None:
        """Takes over finished files of the same work, and clears everything else away."""
        assert self._lock is not None
        work = self._fingerprint or ""
        lines = (self.path / _JOURNAL).read_text("utf-8", "replace").splitlines()
        if work and lines and lines[0] == work:
            for line in lines[1:]:
                try:
                    name, note = json.loads(line)
                except (ValueError, TypeError):  # the line that a kill cut short
                    continue
                if (self.path / name).is_file():
                    self._done[name] = note
        self._clear()
        os.ftruncate(self._lock, 0)
        os.lseek(self._lock, 0, os.SEEK_SET)
        self._write(work)
        for name, note in self._done.items():
            self._write(json.dumps([name, note]))

    def _clear(self) -> None:
        """Removes what is not finished."""
        for entry in self.path.iterdir():
            if entry.name != _JOURNAL and entry.name not in self._done:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def begin(self, names: Sequence[str]) -> None:
        """See `Output`: here whatever is not noted is cleared away, whatever its name."""

    def finish(self, name: str, note: Any) -> None:
        """See `Output`."""
        self._done[name] = note
        self._write(json.dumps([name, note]))

    def write_file(self, name: str, content: bytes) -> None:
        """Writes a small file of the output."""
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def publish(self) -> None:
        """Makes the folder the output, in one rename."""
        self._check_free()
        for left in self.path.glob(f"*{TEMPORARY}"):  # by a machine that was lost meanwhile
            left.unlink()
        (self.path / _JOURNAL).unlink()
        _sync(self.path)
        self.path.rename(self.out)
        _sync(self.out.parent)

    def discard(self) -> None:
        """Removes everything: what was made is not worth resuming."""
        self._done.clear()
        shutil.rmtree(self.path, ignore_errors=True)

    def _write(self, line: str) -> None:
        assert self._lock is not None
        os.write(self._lock, f"{line}\n".encode())
        os.fsync(self._lock)


def refused(error: OSError, out: Place, *, kept: bool) -> InputError:
    """A sentence for what the operating system or a store refused."""
    sentence = f"{error.filename or out}: {error.strerror}."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        sentence = f"the disk of {out} is full."
    again = " What is finished is kept: run the same command again to go on."
    return InputError(sentence + again * kept)


def _sync(folder: Path) -> None:
    """Brings a folder's entries to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
