"""Small files: those of anyone's folder, read in bounded time and memory; ours, written whole.

A name may stand for a pipe, a device or a broken link, and a file may be of any size and nesting.
"""

from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path
from typing import Any

from unmergeable.checkpoint.remote import Place, RemotePath
from unmergeable.errors import InputError, clip

MAX_JSON = 16 << 20
MAX_DEPTH = 64
MAX_DIGITS = 1000
# What the objects of a parsed document may take, by the estimate of `check_parsable`.
MAX_PARSED = 700 << 20
_LFS = b"version https://git-lfs.github.com/spec/v"
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def is_there(path: Place) -> bool:
    """Whether a name is taken, by whatever; what it is, `read_small` says.

    Raises:
        InputError: a store that does not say.
    """
    if not isinstance(path, RemotePath):
        return os.path.lexists(path)
    try:
        return path.is_file()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}.") from None


def what_is(path: Path) -> str:
    """What stands under a name in place of a file; nothing for files and what cannot be seen."""
    try:
        mode = path.stat().st_mode
    except PermissionError:
        return ""
    except OSError:
        return "a broken link" if path.is_symlink() else ""
    return "" if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "no file")


def open_regular(path: Path) -> int:
    """A descriptor of a file, for reading; it never waits for the other end of a pipe.

    Raises:
        InputError: it is no file, or cannot be read.
    """
    if kind := what_is(path):
        raise InputError(f"{path} is {kind}, not a file that can be read.")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}.") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # exchanged meanwhile
        os.close(descriptor)
        raise InputError(f"{path} is not a file that can be read.")
    return descriptor


def read_small(path: Place, limit: int = MAX_JSON) -> bytes:
    """A file's content.

    Raises:
        InputError: no file, one that cannot be read, one of more bytes than `limit`, or a pointer
            of Git LFS in the place of one.
    """
    try:
        if isinstance(path, RemotePath):
            size = path.measure()[0]
            content = path.read_bytes(size) if size <= limit else b""
        else:
            with os.fdopen(open_regular(path), "rb") as file:
                size = os.fstat(file.fileno()).st_size
                content = file.read(limit + 1) if size <= limit else b""
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}.") from None
    if max(size, len(content)) > limit:
        raise InputError(f"{path} has {size:,} bytes; the most that is read is {limit:,}.")
    check_no_pointer(path, content)
    return content


def check_no_pointer(path: Place, start: bytes) -> None:
    """Refuses what Git leaves in a file's place where LFS is not installed.

    Args:
        path: the file.
        start: its first bytes.

    Raises:
        InputError: it is one.
    """
    if start.startswith(_LFS):
        raise InputError(
            f"{path} is a Git LFS pointer, not the file itself. Run `git lfs pull` in its folder."
        )


def read_json(path: Place) -> Any:
    """What a file says in JSON.

    Raises:
        InputError: as `read_small`; no JSON, or JSON of absurd size or nesting.
    """
    return json_of(read_small(path), path)


def json_of(content: bytes, where: object) -> Any:
    """What bytes say in JSON.

    Args:
        content: the bytes.
        where: what errors call them.

    Raises:
        InputError: no JSON, or JSON of absurd size or nesting.
    """
    try:
        check_parsable(content)
        document = json.loads(content, parse_int=_integer)
        check_depth(document)
    except RecursionError:
        raise InputError(f"{where} cannot be read as JSON: it is nested too deeply.") from None
    except ValueError as error:
        raise InputError(f"{where} cannot be read as JSON: {clip(error)}.") from None
    return document


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"the number {clip(digits, 40)} has {len(digits):,} digits")
    return int(digits)


def check_parsable(content: bytes) -> None:
    """Refuses JSON that would fill the memory when it is parsed: empty lists take 30 times theirs.

    Raises:
        ValueError: says so.
    """
    plain = content.isascii() and b"\\u" not in content
    parts = sum(content.count(mark) for mark in (b"{", b"[", b","))
    if len(content) * (2 if plain else 9) + 256 * parts > MAX_PARSED:
        raise ValueError(f"it has {len(content):,} bytes and {parts:,} parts, too many to read")


def check_depth(document: Any) -> None:
    """Refuses JSON that nobody could print or walk through.

    Raises:
        ValueError: says so.
    """
    level = [document]
    for _ in range(MAX_DEPTH + 1):
        level = [
            child
            for parent in level
            if isinstance(parent, dict | list)
            for child in (parent.values() if isinstance(parent, dict) else parent)
        ]
        if not level:
            return
    raise ValueError("it is nested too deeply")


def write_over(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Writes a file in place of another of its name: that one or this one is there, and whole.

    Args:
        path: its place, in a folder that is there.
        content: the bytes.
        mode: its permissions, less those that the process masks.

    Raises:
        OSError: as the operating system says.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.partial")
    partial.unlink(missing_ok=True)
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
