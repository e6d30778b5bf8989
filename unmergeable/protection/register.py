"""The register: for whom copies of which expert were marked, in a file that only the key opens.

A small JSON document with mode 0600:

    {"format": "unmergeable-register", "version": 1, "key": "...", "copies": "base64"}

`key` is the key's id, and `copies` a JSON list, padded to whole blocks and encrypted under the key
(AES-SIV, which notices any change). So the file says how many names there are about, and nothing
else. Somebody who can write it can put an earlier one in its place, which nothing shows.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unmergeable.checkpoint.small_files import read_json, write_over
from unmergeable.errors import InputError, KeyFileError, clip, quoted
from unmergeable.keys.key import Key, load_key, write_new

FORMAT = "unmergeable-register"
VERSION = 1
_SECRET = "register"  # the name under which the copies are encrypted
_BLOCK = 4096  # bytes that the list is padded to


@dataclass(frozen=True)
class LicensedCopy:
    """A copy that was marked for somebody.

    Attributes:
        licensee: for whom; a name that the owner chose, such as a pseudonym.
        release: the digest of the expert before the mark; see `defences.mark.release_of`.

    Examples:
        >>> unmergeable.LicensedCopy("alice", "00" * 32).licensee
        'alice'
    """

    licensee: str
    release: str


def licensees(register: str | Path, key: Key | str | Path) -> tuple[LicensedCopy, ...]:
    """The copies in a register, in the order in which they were made.

    Args:
        register: as written by `protect`.
        key: the owner's, or its file.

    Raises:
        InputError: no such file, or one that is none.
        KeyFileError: another key, or a register that was changed.

    Examples:
        >>> settings = {"licensee": "alice"}
        >>> report = unmergeable.protect(
        ...     "expert", "for-alice", "owner.key", defence="mark", settings=settings, base="base",
        ...     register="copies.register",
        ... )
        >>> [copy.licensee for copy in unmergeable.licensees("copies.register", "owner.key")]
        ['alice']
    """
    key = key if isinstance(key, Key) else load_key(key)
    shown, document = clip(register), read_json(Path(register))
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise InputError(f"{shown} is no register: `protect --register` makes one.")
    version, copies = document.get("version"), document.get("copies")
    if version != VERSION:
        raise InputError(f"{shown} has version {quoted(version)}; this release reads {VERSION}.")
    if document.get("key") != key.id:
        raise KeyFileError(f"{shown} is of the key {quoted(document.get('key'))}, not {key.id}.")
    try:
        content = key.decrypt(_SECRET, copies) if isinstance(copies, str) else b""
    except KeyFileError:
        content = b""
    if not content:
        raise KeyFileError(f"{shown} was changed since it was written. Restore it from a backup.")
    return tuple(LicensedCopy(**copy) for copy in json.loads(content))


def enter(register: str | Path, key: Key, copy: LicensedCopy) -> None:
    """Puts a copy into a register that has it not yet, and makes the register if there is none.

    It is complete at any moment, and has mode 0600. Of two runs at once one waits for the other.

    Raises:
        InputError: a place that cannot be written; as `licensees`.
        KeyFileError: as `licensees`.
    """
    path = Path(register).resolve()  # so that a link keeps leading to it
    try:
        while not _made(path, key, copy):
            with _held(path) as ours:
                if not ours:
                    continue
                copies = licensees(path, key)
                if copy not in copies:
                    write_over(path, _content(key, (*copies, copy)), mode=0o600)
                return
    except OSError as error:
        raise InputError(f"cannot write the register {clip(path)}: {error.strerror}.") from None


def looked_for(
    register: str | Path, key: Key, release: str, names: Sequence[str]
) -> tuple[str, ...]:
    """Whose copies of an expert to look for.

    Args:
        register: the owner's.
        key: the owner's.
        release: of the expert.
        names: those that were asked for; "" is the release to all, which is in no register. If
            there are no others, all of the register are looked for.

    Raises:
        InputError: a name that no copy of this expert was made for; no copies of it at all.
        KeyFileError: as `licensees`.
    """
    known = [copy.licensee for copy in licensees(register, key) if copy.release == release]
    if not known:
        raise InputError(
            f"{clip(register)} has no copy of this expert. Is it as it was before the mark?"
        )
    if unknown := [name for name in names if name and name not in known]:
        raise InputError(
            f"{clip(register)} has no copy of this expert for {quoted(unknown[0])}. "
            "`unmergeable licensees` lists those that it has."
        )
    return tuple(names) if any(names) else (*names, *known)


def padded(content: Any) -> bytes:
    """JSON in whole blocks, so that its length, once encrypted, does not tell that of names."""
    plain = json.dumps(content).encode()
    return plain + b" " * (-len(plain) % _BLOCK)


def _content(key: Key, copies: Sequence[LicensedCopy]) -> bytes:
    plain = padded([asdict(copy) for copy in copies])
    document = {"format": FORMAT, "version": VERSION, "key": key.id}
    document["copies"] = key.encrypt(_SECRET, plain)
    return (json.dumps(document, indent=2) + "\n").encode()


def _made(path: Path, key: Key, copy: LicensedCopy) -> bool:
    """Makes a register of one copy where there is nothing; says whether it did."""
    try:
        write_new(path, _content(key, (copy,)))
    except FileExistsError:
        return False
    return True


@contextmanager
def _held(path: Path) -> Iterator[bool]:
    """Waits for a register's lock; says whether it is still the one of that name."""
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield os.path.lexists(path) and os.path.samestat(os.fstat(descriptor), path.stat())
    finally:
        os.close(descriptor)
