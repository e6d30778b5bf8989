"""Where finished shards go: a folder that is growing, or an address.

A target is data: whichever machine makes a shard brings it there itself. It is not part of the
output before the run that ordered it has noted it; see `staging`.
"""

from __future__ import annotations

import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from unmergeable.checkpoint.remote import Place, RemotePath
from unmergeable.checkpoint.scratch import scratch
from unmergeable.errors import ClusterError, InputError

TEMPORARY = ".tmp"


class Target(Protocol):
    """Where shards go.

    Attributes:
        together: how many a machine may make at a time.
        lasting: whether the files that it makes stay on its disk.
    """

    together: ClassVar[int]
    lasting: ClassVar[bool]

    def making(self, name: str) -> AbstractContextManager[Path]:
        """A file on this machine to write; it becomes the shard if nothing is raised.

        Raises:
            ClusterError: this machine does not see the target.
        """

    def finished(self, name: str) -> Place:
        """Where a finished shard is."""

    def check_space(self, sizes: Sequence[int]) -> None:
        """Refuses early what will not fit.

        Raises:
            InputError: a disk without room for files of these sizes.
        """


@dataclass(frozen=True)
class FolderTarget:
    """A folder that every machine which makes shards can write.

    Attributes:
        folder: the hidden one in which the output grows.
        out: the output, for people.
    """

    folder: Path
    out: Path
    # More than one: threads that write the same file wait for each other.
    together: ClassVar[int] = 4
    lasting: ClassVar[bool] = True

    @contextmanager
    def making(self, name: str) -> Iterator[Path]:
        """See `Target`."""
        if not self._there():
            raise ClusterError(
                f"a machine of the cluster does not see {self.folder}. Input and output must be on "
                "a file system that all of its machines share, or be addresses such as s3://."
            )
        # Two attempts at one shard may overlap where a machine was lost from sight only.
        temporary = self.folder / f"{name}.{secrets.token_hex(4)}{TEMPORARY}"
        yield temporary
        temporary.replace(self.folder / name)

    def finished(self, name: str) -> Path:
        """See `Target`."""
        return self.folder / name

    def check_space(self, sizes: Sequence[int]) -> None:
        """See `Target`."""
        check_room(self.out, self.folder, sum(sizes))

    def _there(self) -> bool:
        """Whether there is a folder, rather than a link to one."""
        try:
            return stat.S_ISDIR(self.folder.lstat().st_mode)
        except OSError:
            return False


@dataclass(frozen=True)
class RemoteTarget:
    """An address; each shard is made on the disk of the machine at work, then uploaded whole."""

    out: RemotePath
    together: ClassVar[int] = 1  # each takes room on this machine until it is uploaded
    lasting: ClassVar[bool] = False

    @contextmanager
    def making(self, name: str) -> Iterator[Path]:
        """See `Target`."""
        with scratch() as folder:
            yield folder / name
            (self.out / name).upload(folder / name)

    def finished(self, name: str) -> RemotePath:
        """See `Target`."""
        return self.out / name

    def check_space(self, sizes: Sequence[int]) -> None:
        """See `Target`."""
        disk = Path(tempfile.gettempdir())
        check_room(disk, disk, max(sizes, default=0))


def check_room(place: Path, disk: Path, needed: int) -> None:
    """Refuses early what will not fit.

    Args:
        place: what errors name.
        disk: a folder on the disk in question.
        needed: bytes.

    Raises:
        InputError: a disk with less room.
    """
    free = shutil.disk_usage(disk).free
    if needed > free:
        raise InputError(
            f"{place} needs {needed / 1e9:.2f} GB, its disk has {free / 1e9:.2f} GB free."
        )
