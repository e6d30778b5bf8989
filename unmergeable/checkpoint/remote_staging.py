"""An output at an address: complete once its config.json is there and its journal is not.

Stores rename nothing and lock nothing, but a file is there whole or not at all. So weight files go
straight to the address, each noted in a journal beside them. `config.json`, without which a folder
is no model, is written after everything else but the manifest; the manifest comes last, and then
the journal goes. Of two runs that write one output, the one that came first notices the other at
its next note, and stops.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

from unmergeable.checkpoint.folder import CONFIG, MANIFEST
from unmergeable.checkpoint.header import parse_json
from unmergeable.checkpoint.remote import RemotePath, is_url
from unmergeable.checkpoint.staging import Staging, refused
from unmergeable.checkpoint.target import RemoteTarget
from unmergeable.errors import InputError

JOURNAL = ".unmergeable-partial.json"
_FORMAT = "unmergeable partial 1"
# Bytes and brackets of a journal. Of 200,000 tensors it has 40 MB, and a few for each of its files.
_MOST, _BRACKETS = 48 << 20, 1 << 20


def staging_for(out: str | Path, fingerprint: str | None) -> Staging | RemoteStaging:
    """What makes an output where it is wanted; see `Staging` for the arguments.

    Raises:
        InputError: an address of an unknown kind.
    """
    if is_url(out):
        return RemoteStaging(RemotePath.of(str(out)), fingerprint)
    return Staging(out, fingerprint)


class RemoteStaging:
    """The journal of an output at an address.

    Args:
        out: the output; there must be no file in it but what an earlier run left.
        fingerprint: as of `Staging`.

    Raises:
        InputError: an output that is not empty, or a store that refuses.
    """

    def __init__(self, out: RemotePath, fingerprint: str | None) -> None:
        self.out = out
        self._fingerprint = fingerprint
        self._run = secrets.token_hex(8)
        self._names: list[str] = []
        self._done: dict[str, Any] = {}
        self._files: dict[str, bytes] = {}
        self._published = False

    @property
    def done(self) -> Mapping[str, Any]:
        """See `Output`."""
        return self._done

    @property
    def target(self) -> RemoteTarget:
        """See `Output`."""
        return RemoteTarget(self.out)

    def __enter__(self) -> RemoteStaging:
        try:
            left = self._journal()
            if left is None and self.out.files():
                raise InputError(f"{self.out} exists and is not empty. Choose another name.")
            if left is not None:
                self._check_noted(left)
                self._resume(left)
            self._note()
        except OSError as error:
            raise refused(error, self.out, kept=False) from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Removes what is not worth resuming; says in a sentence what the store refused.

        Raises:
            InputError: in place of an OSError.
        """
        kept = bool(self._done) and self._fingerprint is not None
        if not self._published and not kept:
            self.discard()
        if isinstance(error, OSError):
            raise refused(error, self.out, kept=kept) from None

    def begin(self, names: Sequence[str]) -> None:
        """See `Output`."""
        self._names = list(dict.fromkeys([*self._names, *names]))  # an earlier run's are there
        self._note()

    def forget(self, name: str) -> None:
        """See `Output`."""
        del self._done[name]
        self._note()
        (self.out / name).unlink()

    def finish(self, name: str, note: Any) -> None:
        """See `Output`.

        Raises:
            InputError: another run has taken over.
        """
        self._check_ours()
        self._done[name] = note
        self._note()

    def write_file(self, name: str, content: bytes) -> None:
        """See `Output`; it waits for `publish`."""
        if not _is_inside(name):
            raise InputError(f"{name[:80]!r} is not the name of a file in a model folder.")
        self._files[name] = content

    def publish(self) -> None:
        """See `Output`.

        Raises:
            InputError: another run has taken over.
        """
        self._check_ours()
        self._names = list(dict.fromkeys([*self._names, *self._files]))
        self._note()
        last = [name for name in (CONFIG, MANIFEST) if name in self._files]
        for name in [*(name for name in self._files if name not in last), *last]:
            (self.out / name).write_bytes(self._files[name])
        (self.out / JOURNAL).unlink()
        self._published = True

    def discard(self) -> None:
        """See `Output`; what another run has taken over is left to it."""
        try:
            left = self._journal()
            if left is not None and left["run"] == self._run:
                self._remove(left)
                (self.out / JOURNAL).unlink()
        except (OSError, InputError):
            pass  # it is refused as it was when the work failed; the journal says what is left
        self._done.clear()

    def _resume(self, left: dict[str, Any]) -> None:
        """Takes over finished files of the same work, and removes those of another."""
        work = self._fingerprint
        if work is None or left["work"] != work:
            self._remove(left)
            return
        there = set(self.out.files())
        self._names = list(left["names"])
        self._done = {name: note for name, note in left["done"].items() if name in there}

    def _check_noted(self, left: dict[str, Any]) -> None:
        """Refuses a place that holds more than the run did that left the journal.

        Raises:
            InputError: names one such file.
        """
        noted = {JOURNAL, CONFIG, MANIFEST, *left["names"], *left["done"]}
        if others := [name for name in self.out.files() if name not in noted]:
            raise InputError(
                f"{self.out} has files that no interrupted run left, such as {others[0][:80]!r}. "
                "Choose another name."
            )

    def _remove(self, left: dict[str, Any]) -> None:
        for name in {MANIFEST, CONFIG, *left["names"], *left["done"], *self._files}:
            (self.out / name).unlink()

    def _journal(self) -> dict[str, Any] | None:
        """What the journal says; None if there is none.

        Raises:
            InputError: a journal that is damaged, or that none of our runs wrote.
        """
        place = self.out / JOURNAL
        try:
            journal = _read(place)
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise InputError(
                f"{place} is damaged, or no journal of this tool: {error}. Look at what is in "
                f"{self.out} and remove it, or choose another name."
            ) from None
        return journal

    def _check_ours(self) -> None:
        journal = self._journal()
        if journal is None or journal["run"] != self._run:
            self._done.clear()
            raise InputError(f"another run is writing {self.out}. Wait for it.")

    def _note(self) -> None:
        journal = {
            "format": _FORMAT,
            "work": self._fingerprint,
            "run": self._run,
            "names": self._names,
            "done": self._done,
        }
        (self.out / JOURNAL).write_bytes(json.dumps(journal).encode())


def _read(place: RemotePath) -> dict[str, Any]:
    """Reads a journal.

    Raises:
        FileNotFoundError: there is none.
        ValueError: what is wrong with it.
    """
    size, _ = place.measure()
    if size > _MOST:
        raise ValueError("it is too large")
    content = place.read_bytes(size)
    if content.count(b"[") + content.count(b"{") > _BRACKETS:
        raise ValueError("it is too deep or too wide")
    journal = parse_json(content)
    if not isinstance(journal, dict) or journal.get("format") != _FORMAT:
        raise ValueError(f"it is not of the format {_FORMAT!r}")
    kinds = {"work": str | None, "run": str, "names": list, "done": dict}
    for field, kind in kinds.items():
        if field not in journal or not isinstance(journal[field], kind):
            raise ValueError(f"its {field!r} is missing or of the wrong type")
    for name in (*journal["names"], *journal["done"]):
        if not _is_inside(name):
            raise ValueError(f"it names {repr(name)[:80]}, which is no file of a model folder")
    return journal


def _is_inside(name: Any) -> bool:
    """Whether this is a name of a file in the output that a run may write."""
    if not isinstance(name, str) or name == JOURNAL or "\\" in name or "\0" in name:
        return False
    path = PurePosixPath(name)
    return name == path.as_posix() != "." and not path.is_absolute() and ".." not in path.parts
