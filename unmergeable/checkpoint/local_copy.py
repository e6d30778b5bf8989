"""A model's folder on this machine, for libraries that open files themselves."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from unmergeable.checkpoint.folder import ModelFolder
from unmergeable.checkpoint.header import Header
from unmergeable.checkpoint.partial_folder import write_into
from unmergeable.checkpoint.remote import RemotePath
from unmergeable.checkpoint.scratch import scratch
from unmergeable.checkpoint.source import check_unchanged, open_source, parts_of
from unmergeable.checkpoint.target import check_room
from unmergeable.errors import InputError, UnmergeableError


def is_away(folder: ModelFolder) -> bool:
    """Whether a folder is at an address."""
    return isinstance(folder.path, RemotePath)


def check_room_for_copy(folder: ModelFolder) -> None:
    """Refuses early a folder at an address that the temporary folder has no room for.

    Raises:
        InputError: says how much it takes and how much there is.
    """
    if is_away(folder):
        disk = Path(tempfile.gettempdir())
        check_room(disk, disk, folder.size)


@contextmanager
def local_copy(
    folder: ModelFolder, advance: Callable[[int], object] = lambda done: None
) -> Iterator[Path]:
    """The folder itself; or, of one at an address, a copy in the temporary folder, for a while.

    The copy has the weights, config, tokenizer and whatever else of the folder may travel.

    Args:
        folder: the model.
        advance: called with the number of bytes just downloaded.

    Raises:
        InputError: a disk without room; a file that cannot be read, or was changed meanwhile.
    """
    if not is_away(folder):
        yield folder.local
        return
    check_room_for_copy(folder)
    with scratch() as here:
        try:
            for header in folder.files:
                _download(header, here, advance)
            inside = os.open(here, os.O_RDONLY | os.O_DIRECTORY)
            try:
                for name in folder.companions:
                    write_into(inside, name, folder.read_companion(name))
            finally:
                os.close(inside)
            yield here
        except UnmergeableError as error:  # people know the folder by its address
            raise type(error)(str(error).replace(str(here), str(folder.path))) from None


def _download(header: Header, here: Path, advance: Callable[[int], object]) -> None:
    try:
        with (here / header.path.name).open("wb") as file:
            for part in parts_of(header.path):
                file.write(part)
                advance(part.nbytes)
        check_unchanged(header, open_source(header.path))
    except OSError as error:
        raise InputError(f"{error.filename or here}: {error.strerror}.") from None
