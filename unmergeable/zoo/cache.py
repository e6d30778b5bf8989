"""Built artefacts on disk: one folder each, named after a hash of what it was built from.

A folder is filled under a temporary name, flushed and renamed, so whoever looks sees either nothing
or a complete artefact. Folders left by a killed run are never read and are removed by the next
build of the same artefact.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

VARIABLE = "UNMERGEABLE_CACHE"


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


def build(
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
        cache: The cache folder; see [`root`][unmergeable.zoo.cache.root].

    Returns:
        The complete folder.
    """
    key = digest(inputs)
    final = root(cache) / f"{name}-{key[:16]}"
    if final.is_dir():
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
        write_json(final.with_name(final.name + ".json"), dict(inputs))
        try:
            partial.rename(final)
        except OSError:
            if not final.is_dir():  # else another process made the same artefact first
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return final


def write_json(path: Path, value: Any) -> None:
    """Write a small JSON file under a temporary name and rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    _flush(partial)
    partial.replace(path)


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _sweep(final: Path) -> None:
    """Remove what killed processes left of this artefact; leave a living process its folder."""
    for stale in final.parent.glob(f".{final.name}.*.partial"):
        pid = stale.name.split(".")[-2]
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
