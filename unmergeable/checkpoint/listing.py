"""What lies in a folder and below: names, sizes, and what is no file or leads elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from unmergeable.checkpoint.remote import Place, RemotePath
from unmergeable.checkpoint.small_files import what_is
from unmergeable.errors import InputError

# Folders of such names stand in the place of files.
_FILE_ENDINGS = (".json", ".model", ".txt", ".spm", ".jinja", ".py", ".safetensors")


class Entry(NamedTuple):
    """What a folder has under a name.

    Attributes:
        name: the relative path.
        size: bytes.
        odd: what it is in place of a file; empty for files.
        leaves: whether it is a link that leads out of the folder.
    """

    name: str
    size: int = 0
    odd: str = ""
    leaves: bool = False


def entries_of(folder: Place) -> Iterator[Entry]:
    """Everything in a folder and below, in order; of hidden folders and of links the name alone.

    Raises:
        InputError: an address whose store does not say.
    """
    if isinstance(folder, RemotePath):
        try:
            listing = folder.listing()
        except OSError as error:
            raise InputError(f"cannot list {folder}: {error.strerror}.") from None
        for name, info in sorted(listing.items()):
            odd = "" if info.is_file else "no file"
            yield Entry(name, info.size, odd, info.leaves)
        return
    homes = _homes(os.path.realpath(folder))
    todo = [""]
    while todo:
        inside = todo.pop()
        try:
            with os.scandir(f"{folder}/{inside}") as found:
                rows = list(found)
        except OSError as error:
            yield Entry(inside or ".", odd=f"a folder that cannot be read ({error.strerror})")
            continue
        for row in rows:
            name = f"{inside}/{row.name}" if inside else row.name
            if not row.is_dir(follow_symlinks=False):
                yield _entry(Path(folder), name, homes)
            elif row.name.startswith("."):
                yield Entry(name, odd="a hidden folder")
            else:
                todo.append(name)
                if PurePosixPath(name).suffix in _FILE_ENDINGS:
                    yield Entry(name, odd="a folder")


def _homes(root: str) -> tuple[str, ...]:
    """The folders that links may lead to: the folder itself, and the blobs of its Hub cache."""
    revisions = Path(root).parent
    return (root, str(revisions.parent / "blobs")) if revisions.name == "snapshots" else (root,)


def _entry(folder: Path, name: str, homes: tuple[str, ...]) -> Entry:
    path = folder / name
    if odd := what_is(path):
        return Entry(name, odd="a link to a folder" if odd == "a folder" else odd)
    real = os.path.realpath(path)
    stays = any(real.startswith(home.rstrip("/") + "/") for home in homes)
    try:
        size = path.stat().st_size
    except OSError:  # reading it says so
        size = 0
    return Entry(name, size, leaves=not stays)
