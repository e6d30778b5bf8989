"""The hidden folder in which an output grows, opened so that no link in it is ever followed.

Everything in it is named relative to a descriptor. The folder is its owner's alone while it grows:
it may hold open weights.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path, PurePosixPath

from unmergeable.checkpoint.journal import JOURNAL, NotOursError
from unmergeable.checkpoint.target import TEMPORARY
from unmergeable.errors import InputError

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
# What systems say of a link that is not followed, or of a file.
_NO_FOLDER = (errno.ENOTDIR, errno.ELOOP)


def open_private(path: Path) -> tuple[int, bool]:
    """Opens a folder that is made if it is not there.

    Args:
        path: where; the folder that it is in exists.

    Returns:
        A descriptor, and whether the folder was made.

    Raises:
        NotOursError: a link, a file, or a folder of another user's.
        OSError: what the system refused.
    """
    try:
        path.mkdir(0o700)
        made = True
    except FileExistsError:
        made = False
    try:
        folder = os.open(path, _FOLDER)
    except OSError as error:
        if error.errno in _NO_FOLDER:
            raise NotOursError("it is a link or a file") from None
        raise
    try:
        # Some file systems have another owner for all that a user makes.
        if not made and os.fstat(folder).st_uid != os.geteuid():
            raise NotOursError("it belongs to another user")
    except BaseException:
        os.close(folder)
        raise
    return folder, made


def make_private(folder: int) -> None:
    """Lets nobody but its owner into an open folder."""
    _set_mode(folder, 0o700)


def set_usual_mode(folder: int) -> None:
    """Gives an open folder the mode that the user's settings give to new ones."""
    probe = f"{secrets.token_hex(4)}{TEMPORARY}"
    os.mkdir(probe, dir_fd=folder)
    mode = os.stat(probe, dir_fd=folder).st_mode
    os.rmdir(probe, dir_fd=folder)
    _set_mode(folder, mode & 0o777)


def names_in(folder: int) -> list[str]:
    """The names of all that is in an open folder."""
    return os.listdir(folder)


def is_own_file(folder: int, name: str) -> bool:
    """Whether there is a file of that name in an open folder, and nowhere else under another."""
    if name != PurePosixPath(name).name or name in ("", "..", JOURNAL):
        return False
    try:
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except (OSError, ValueError):
        return False
    ours = status.st_uid == os.fstat(folder).st_uid
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1 and ours


def remove_all(folder: int, *, but: Collection[str] = (), ending: str = "") -> None:
    """Removes what is in an open folder; of a link the link itself.

    Args:
        folder: the descriptor.
        but: names that stay.
        ending: of the names that go.
    """
    for name in names_in(folder):
        if name in but or not name.endswith(ending):
            continue
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            shutil.rmtree(name, dir_fd=folder)
        else:
            os.unlink(name, dir_fd=folder)


def write_into(folder: int, name: str, content: bytes) -> None:
    """Writes a file that is there whole or not at all, in place of whatever had its name.

    Args:
        folder: the descriptor.
        name: relative; folders on the way are made, in place of links that have their names.
        content: what to write.

    Raises:
        InputError: a name that leads out of the folder, or to the journal.
        OSError: what the system refused.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or name in ("", ".", JOURNAL) or "\0" in name:
        raise InputError(f"{name[:80]!r} is not the name of a file in a model folder.")
    here = os.dup(folder)
    try:
        for part in path.parts[:-1]:
            below = _subfolder(here, part)
            os.close(here)
            here = below
        temporary = f".{secrets.token_hex(8)}{TEMPORARY}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(temporary, flags, 0o666, dir_fd=here), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path.name, src_dir_fd=here, dst_dir_fd=here)
        if len(path.parts) > 1:
            os.fsync(here)
    finally:
        os.close(here)


def _subfolder(folder: int, name: str) -> int:
    for _ in range(2):
        with suppress(FileExistsError):
            os.mkdir(name, dir_fd=folder)
        try:
            return os.open(name, _FOLDER, dir_fd=folder)
        except OSError as error:
            if error.errno not in _NO_FOLDER:
                raise
            os.unlink(name, dir_fd=folder)
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)


def _set_mode(folder: int, mode: int) -> None:
    """Sets who may do what; the special bits stay."""
    special = os.fstat(folder).st_mode & 0o7000
    with suppress(PermissionError, NotImplementedError):  # a file system without modes
        os.fchmod(folder, special | mode)
