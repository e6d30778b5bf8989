"""Places on file systems that fsspec reaches: `s3://`, `gs://`, `hf://`, `memory://` and the like.

A `RemotePath` has as much of `pathlib.Path` as reading a model folder needs. It holds the address
alone, so that it can be sent to another machine, which finds its own credentials.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from unmergeable.errors import InputError, MissingExtraError

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://.")
# What changes with a file's content, by the names that file systems give it. All count: where a
# time of modification can be put back, another time tells.
_MARKS = (
    "ETag", "etag", "md5Hash", "blob_id", "sha", "generation", "mtime", "modify", "created",
    "LastModified", "last_modified",
)  # fmt: skip

# Stores have no folders, and some would make a bucket of a name that was mistyped.
_WITH_FOLDERS = {"file", "local", "sftp", "ssh", "smb", "nfs", "hdfs", "webhdfs"}


def is_url(place: object) -> bool:
    """Whether something names a place for fsspec rather than a path."""
    return isinstance(place, str) and _URL.match(place) is not None


class Listed(NamedTuple):
    """What a file system says of a file.

    Attributes:
        size: bytes.
        is_file: whether it can be read; pipes and devices cannot.
        leaves: whether it is a link that leads out of the folder, as far as that is known.
    """

    size: int
    is_file: bool
    leaves: bool


@dataclass(frozen=True)
class RemotePath:
    """A file or folder by its address.

    Attributes:
        url: the address, without a slash at its end.
    """

    url: str

    @classmethod
    def of(cls, url: str) -> RemotePath:
        """Reads an address.

        Raises:
            InputError: a protocol that fsspec does not know.
            MissingExtraError: one whose library is not installed.
        """
        path = cls(url.rstrip("/"))
        path.reach()
        return path

    def reach(self) -> tuple[Any, str]:
        """The file system, and the path on it."""
        from fsspec.core import url_to_fs

        try:
            system, path = url_to_fs(self.url)
        except ImportError as error:
            raise MissingExtraError(
                f"{self.url} needs a library that is not installed: {error}"
            ) from None
        except ValueError as error:
            raise InputError(f"{self.url} cannot be reached: {error}.") from None
        return system, path

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(f"{self.url}/{name}")

    @property
    def name(self) -> str:
        """The part after the last slash."""
        return self.url.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The name's ending, with its dot."""
        return PurePosixPath(self.name).suffix

    def resolve(self) -> RemotePath:
        """Itself: an address has no links to follow."""
        return self

    def exists(self) -> bool:
        """Whether there is a file or folder.

        Raises:
            OSError: nothing can be said, as the store does not answer.
        """
        return bool(self._kind())

    def is_file(self) -> bool:
        """Whether there is a file.

        Raises:
            OSError: as `exists`.
        """
        return self._kind() == "file"

    def is_dir(self) -> bool:
        """Whether there is a folder; where folders are no things of their own: anything in it."""
        return bool(self._ask("isdir"))

    def files(self) -> list[str]:
        """Relative paths of all files in a folder and below, in order."""
        return sorted(self.listing())

    def listing(self) -> dict[str, Listed]:
        """All files in a folder and below, by their relative paths."""
        system, root = self.reach()
        system.invalidate_cache(root)  # another machine may have written meanwhile
        here = _is_local(system)
        return {
            PurePosixPath(path).relative_to(root).as_posix(): _listed(info, root, here)
            for path, info in self._ask("find", missing={}, detail=True).items()
        }

    def iterdir(self) -> Iterator[RemotePath]:
        """The files in a folder."""
        return (self / name for name in self.files() if "/" not in name)

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """The files in a folder whose names fit a pattern."""
        return (path for path in self.iterdir() if PurePosixPath(path.name).match(pattern))

    def read_bytes(self, size: int | None = None) -> bytes:
        """A file's content.

        Args:
            size: its bytes, if they were just measured.

        Raises:
            OSError: no file, or less of it than the store says that there is.
        """
        size = self.measure()[0] if size is None else size
        content = self.read_range(0, size) if size else b""  # there is no range of no bytes
        if len(content) < size:
            raise OSError(errno.EIO, f"{len(content)} of its {size} bytes came", self.url)
        return content

    def read_range(self, start: int, stop: int) -> bytes:
        """Some of a file's content; less than was asked for where the file ends."""
        return bytes(self._ask("cat_file", start=start, end=stop))

    def measure(self) -> tuple[int, str]:
        """A file's size in bytes, and a mark that changes when the file does.

        Where a store says nothing but the size, so does the mark, in one word.

        Raises:
            OSError: no file, or none that can be read.
        """
        system, path = self.reach()
        with _as_os_errors(self.url):
            system.invalidate_cache(path)
        info = self._ask("info")
        if info["type"] != "file":
            raise OSError(errno.EINVAL, "it is not a file", self.url)
        marks = [str(info[name]) for name in _MARKS if info.get(name) is not None]
        return int(info["size"]), " ".join([str(info["size"]), *marks])

    def write_bytes(self, content: bytes) -> None:
        """Writes a small file; it is there whole or not at all."""
        self._make_folder()
        self._ask("pipe_file", content)

    def upload(self, file: Path) -> None:
        """Writes a file from this machine's disk."""
        self._make_folder()
        system, path = self.reach()
        with _as_os_errors(self.url):
            system.put_file(str(file), path)

    def unlink(self) -> None:
        """Removes a file, if it is there."""
        self._ask("rm_file", missing=None)

    def _kind(self) -> str:
        """What there is: "file", "directory" or another word of fsspec; empty if nothing.

        Not `isfile` and `exists` of fsspec: they take every error for the answer no.
        """
        system, path = self.reach()
        with _as_os_errors(self.url):
            system.invalidate_cache(path)
        return str(self._ask("info", missing={"type": ""})["type"])

    def _make_folder(self) -> None:
        """Makes the folder that a file is to be in, where folders are things of their own."""
        system, path = self.reach()
        kinds = {system.protocol} if isinstance(system.protocol, str) else set(system.protocol)
        if kinds & _WITH_FOLDERS:
            with _as_os_errors(self.url):
                system.makedirs(path.rpartition("/")[0], exist_ok=True)

    def _ask(self, method: str, *args: Any, missing: Any = NotImplemented, **kwargs: Any) -> Any:
        """Calls the file system about this path; `missing` is the answer where nothing is."""
        system, path = self.reach()
        try:
            with _as_os_errors(self.url):
                return getattr(system, method)(path, *args, **kwargs)
        except FileNotFoundError:
            if missing is NotImplemented:
                raise
            return missing


Place = Path | RemotePath


def _is_local(system: Any) -> bool:
    protocol = system.protocol
    return "file" in ((protocol,) if isinstance(protocol, str) else protocol)


def _listed(info: Mapping[str, Any], root: str, here: bool) -> Listed:
    """An entry of a listing; `here` where it is of this machine's own disk."""
    if not here:
        link = bool(info.get("islink")) or info["type"] == "link"
        return Listed(int(info.get("size") or 0), info["type"] == "file", link)
    path = Path(info["name"])
    inside = path.resolve().is_relative_to(Path(root).resolve())
    return Listed(int(info["size"]), path.is_file(), not inside)


@contextmanager
def _as_os_errors(url: str) -> Iterator[None]:
    """File systems raise whatever their libraries do; here it is an OSError that says where."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, "there is no such file", url) from None
    except Exception as error:
        number = error.errno if isinstance(error, OSError) and error.errno else errno.EIO
        text = (str(error).splitlines() or [type(error).__name__])[0]
        raise OSError(number, getattr(error, "strerror", None) or text, url) from None
