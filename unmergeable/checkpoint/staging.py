"""An output folder that is absent or complete.

Work goes into a hidden folder beside the output, `.NAME.partial`. Finished weight files are noted
in its journal, so that a run that was killed, or that filled the disk, continues where it was. Only
when all is there does the hidden folder take the output's name, in one rename. Where an output is
an address, on which nothing can be renamed, `remote_staging` does the same in another way.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from unmergeable.checkpoint.journal import JOURNAL, BusyError, Journal, NotOursError
from unmergeable.checkpoint.partial_folder import (
    is_own_file,
    make_private,
    names_in,
    open_private,
    remove_all,
    set_usual_mode,
    write_into,
)
from unmergeable.checkpoint.remote import Place
from unmergeable.checkpoint.target import TEMPORARY, FolderTarget, Target
from unmergeable.errors import InputError


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

    def forget(self, name: str) -> None:
        """Takes a weight file back that was finished: it is to be made again."""

    def write_file(self, name: str, content: bytes) -> None:
        """Writes a small file of the output."""

    def publish(self) -> None:
        """Makes the output what it will be: from now on it is there, and complete."""

    def discard(self) -> None:
        """Removes everything: what was made is not worth resuming."""


class Staging:
    """The hidden folder in which an output grows.

    A folder of its name that has no journal of ours in it, is a link, or is another user's, is not
    touched.

    Args:
        out: the output folder; must be absent or empty.
        fingerprint: names the work. What an earlier run left is kept only if it was the same work;
            None for work that always starts again.

    Raises:
        InputError: an output that is not empty, cannot be made, or is being made by another run;
            something in the hidden folder's place that this tool did not make.
    """

    def __init__(self, out: str | Path, fingerprint: str | None) -> None:
        try:
            self.out = Path(out).resolve()
        except (OSError, RuntimeError):  # Python's for links that lead to themselves
            raise InputError(f"{out} is a link that leads nowhere. Choose another name.") from None
        self.path = self.out.parent / f".{self.out.name}.partial"
        # Where the journal is from just before the folder gets the output's name until just after.
        self._outside = self.out.parent / f".{self.out.name}.publish"
        self._fingerprint = fingerprint
        self._done: dict[str, Any] = {}
        self._folder: int
        self._journal: Journal
        self._gone = False

    @property
    def done(self) -> Mapping[str, Any]:
        """The files that are finished, with what was noted of them."""
        return self._done

    @property
    def target(self) -> FolderTarget:
        """See `Output`."""
        return FolderTarget(self.path, self.out)

    def __enter__(self) -> Staging:
        try:
            self._check_free()
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._folder, made = open_private(self.path)
        except NotOursError as error:
            raise self._in_the_way(error) from None
        except OSError as error:
            raise InputError(f"cannot write beside {self.out}: {error.strerror}.") from None
        try:
            self._journal = self._open_journal()
            try:
                make_private(self._folder)
                self._resume()
            except BaseException:
                self._journal.close()
                raise
        except BaseException as error:
            os.close(self._folder)
            if made:
                with suppress(OSError):  # another run has it
                    self.path.rmdir()
            if isinstance(error, NotOursError):
                raise self._in_the_way(error) from None
            if isinstance(error, BusyError):
                raise InputError(f"another run is writing {self.out}. Wait for it.") from None
            if isinstance(error, OSError):
                raise InputError(f"cannot write into {self.path}: {error.strerror}.") from None
            raise
        return self

    def _in_the_way(self, error: NotOursError) -> InputError:
        return InputError(
            f"{self.path} is where {self.out.name} would grow, and this tool did not make what is "
            f"there: {error}. Move it away, or choose another output."
        )

    def _check_free(self) -> None:
        """Refuses an output that a rename could not replace."""
        if self.out.exists() and (not self.out.is_dir() or any(self.out.iterdir())):
            self._tidy()
            raise InputError(f"{self.out} exists and is not an empty folder. Choose another name.")
        if self.out.is_mount():
            raise InputError(f"{self.out} is a mount point. Name a folder inside it.")

    def _tidy(self) -> None:
        """Removes the journal of a run that was killed when it had published."""
        if not os.path.lexists(self.path):
            with suppress(NotOursError, BusyError, OSError):
                if journal := Journal.open(self._outside, None, os.geteuid()):
                    journal.remove(self._outside)
                    journal.close()

    def _open_journal(self) -> Journal:
        """The journal of this folder, made where there is nothing in it.

        Raises:
            NotOursError: something in it, and no journal of ours.
            BusyError: another run is at work.
        """
        owner, content = os.fstat(self._folder).st_uid, names_in(self._folder)
        outside = Journal.open(self._outside, None, owner)
        if outside and content and JOURNAL not in content and outside.is_of(self._folder):
            os.rename(self._outside, JOURNAL, dst_dir_fd=self._folder)
            return outside
        if outside:  # of a run that was killed when it had published
            outside.remove(self._outside)
            outside.close()
        if not content:
            return Journal.create(self._folder)
        journal = Journal.open(JOURNAL, self._folder, owner)
        if journal is None:
            raise NotOursError(f"files without the {JOURNAL} of a run")
        if journal.empty and len(content) > 1:
            journal.close()
            raise NotOursError(f"files beside an empty {JOURNAL}")
        return journal

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
        kept = bool(self._done) and self._fingerprint is not None
        try:
            if not self._gone and kept:
                make_private(self._folder)
                self._clear()
            elif not self._gone:
                self.discard()
        finally:
            os.close(self._folder)
            self._journal.close()
        if isinstance(error, OSError):
            raise refused(error, self.out, kept=kept) from None

    def _resume(self) -> None:
        """Takes over finished files of the same work, and clears everything else away."""
        work = self._fingerprint or "-"
        known = self._journal.notes(work, partial(is_own_file, self._folder))
        if known is not None and self._fingerprint:
            self._done = known
        self._clear()
        self._journal.go_on() if known is not None else self._journal.begin(work)
        os.fsync(self._folder)

    def _clear(self) -> None:
        """Removes what is not finished."""
        remove_all(self._folder, but={JOURNAL, *self._done})

    def begin(self, names: Sequence[str]) -> None:
        """See `Output`: here whatever is not noted is cleared away, whatever its name."""

    def finish(self, name: str, note: Any) -> None:
        """See `Output`."""
        self._done[name] = note
        self._journal.note(name, note)

    def forget(self, name: str) -> None:
        """See `Output`."""
        self._journal.note(name, None)
        del self._done[name]
        os.unlink(name, dir_fd=self._folder)

    def write_file(self, name: str, content: bytes) -> None:
        """Writes a small file of the output."""
        write_into(self._folder, name, content)

    def publish(self) -> None:
        """Makes the folder the output, in one rename."""
        self._check_free()
        remove_all(self._folder, ending=TEMPORARY)  # by a machine that was lost meanwhile
        if os.path.lexists(self._outside):
            raise InputError(f"{self._outside} is in the way. Move it away and run this again.")
        # Until the rename it must be known as ours, and after it nothing may be in it but a model.
        self._journal.publishing(self._folder)
        os.rename(JOURNAL, self._outside, src_dir_fd=self._folder)
        set_usual_mode(self._folder)
        os.fsync(self._folder)
        if not os.path.samestat(self.path.lstat(), os.fstat(self._folder)):
            raise InputError(f"{self.path} was moved while it was written. Run this again.")
        self.path.rename(self.out)
        self._gone = True
        with suppress(OSError):  # the next run of this name removes it
            self._outside.unlink()
        _sync(self.out.parent)

    def discard(self) -> None:
        """Removes everything: what was made is not worth resuming."""
        self._done.clear()
        self._gone = True
        with suppress(OSError):
            self._clear()
            self._journal.remove(JOURNAL, self._folder)
            self._journal.remove(self._outside)
            self.path.rmdir()


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
