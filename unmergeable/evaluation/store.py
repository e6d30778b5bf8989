"""Built artefacts and measurements on disk, named after a hash of what they were made from.

A folder is filled under a temporary name, flushed and renamed, so a reader sees either nothing
or a complete artefact. Folders left by a killed run are never read and are removed by the next
build of the same artefact. Beside each folder lies a record of its files with their checksums, and
each measurement holds its own: what is damaged is made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from unmergeable.checkpoint.digest import file_digest
from unmergeable.checkpoint.small_files import write_over

VARIABLE = "UNMERGEABLE_CACHE"
_CHECKSUM = "checksum"


def root(cache: str | Path | None = None) -> Path:
    """The cache folder: the argument, else ``UNMERGEABLE_CACHE``, else ``~/.cache/unmergeable``."""
    if cache is not None:
        return Path(cache).expanduser()
    return Path(os.environ.get(VARIABLE) or "~/.cache/unmergeable").expanduser()


def digest(inputs: Mapping[str, Any]) -> str:
    """Hash JSON-able inputs, whatever the order of their keys, to 64 hexadecimal digits."""
    text = json.dumps(inputs, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal, read in blocks of 1 MiB."""
    hasher = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(1 << 20):
            hasher.update(block)
    return hasher.hexdigest()


def get_or_make(
    name: str,
    inputs: Mapping[str, Any],
    make: Callable[[Path], None],
    cache: str | Path | None = None,
) -> Path:
    """Return the artefact made from these inputs, making it first if it is not there.

    Args:
        name: What people see in the folder's name; may hold a slash ("models/smollm2").
        inputs: Everything the result depends on, JSON-able. Written beside the artefact, as
            ``<folder>.json``, so that one can tell what a folder is.
        make: Fills the empty folder it is given. If it raises, nothing is kept.
        cache: The cache folder; see [`root`][unmergeable.evaluation.store.root].

    Returns:
        The complete folder; built again if its files are not what they were when it was built.
    """
    key = digest(inputs)
    final = root(cache) / f"{name}-{key[:16]}"
    if _is_whole(final):
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    _sweep(final)
    partial = final.with_name(f".{final.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        make(partial)
        for file in partial.rglob("*"):
            if file.is_file():
                _flush(file)
        checksums = _checksums(partial)
        if final.is_dir() and not _is_whole(final):
            damaged = final.with_name(f".{final.name}.{os.getpid()}-damaged.partial")
            final.rename(damaged)
            shutil.rmtree(damaged, ignore_errors=True)
        try:
            partial.rename(final)
            keep(_record(final), {"inputs": dict(inputs), "files": checksums})
        except OSError:
            if not _is_whole(final):  # else another process made the same artefact first
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return final


def keep(path: Path, value: Mapping[str, Any]) -> None:
    """Writes a measurement, or a record, so that damage to it is noticed when it is read."""
    read = json.loads(json.dumps(value))  # as it will be found: without tuples, keys as text
    write_json(path, {**read, _CHECKSUM: digest(read)})


def kept(path: Path) -> dict[str, Any] | None:
    """What was kept at a path; None if nothing was, or if it is damaged."""
    try:
        found = json.loads(path.read_bytes())
        checksum = found.pop(_CHECKSUM)
        return found if digest(found) == checksum else None
    except (OSError, ValueError, RecursionError, AttributeError, KeyError, TypeError):
        return None


def write_json(path: Path, value: Any) -> None:
    """Write a small JSON file under a temporary name and rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_over(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _record(final: Path) -> Path:
    return final.with_name(final.name + ".json")


def _is_whole(final: Path) -> bool:
    """Whether a folder is there, and its files are those that its record names."""
    record = kept(_record(final))
    return record is not None and final.is_dir() and _checksums(final) == record.get("files")


def _checksums(folder: Path) -> dict[str, str]:
    """The checksum of each file in a folder and below."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found[path.relative_to(folder).as_posix()] = file_digest(path)
    return found


def _sweep(final: Path) -> None:
    """Remove what killed processes left of this artefact; leave a living process its folder."""
    for stale in final.parent.glob(f".{final.name}.*.partial"):
        pid = stale.name.split(".")[-2].partition("-")[0]
        if not (pid.isdigit() and _alive(int(pid))):
            shutil.rmtree(stale, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it lives, under another user
        return True
    return True
