"""What a suite needs of the machine, checked before hours are spent."""

from __future__ import annotations

import shutil
from pathlib import Path

from unmergeable.bench.field.suite import Suite
from unmergeable.errors import InputError
from unmergeable.machine import available_memory

GB = 1e9


def check(suite: Suite, cache: Path, workers: int = 1) -> None:
    """Looks at disk and memory.

    What the suite has in the cache already counts as disk that it does not need any more.

    Raises:
        InputError: too little of either; says how much there is and how much is needed.
    """
    place = cache
    while not place.exists():
        place = place.parent
    there = held(suite, cache)
    free = shutil.disk_usage(place).free / GB
    if free < suite.disk - there:
        raise InputError(
            f"suite {suite.name} needs {suite.disk - there:.1f} GB more of disk in {cache}, and "
            f"{free:.1f} GB are free. Make room, or give another folder (--cache)."
        )
    memory = available_memory() / GB
    if memory < suite.memory * workers:
        raise InputError(
            f"suite {suite.name} needs {suite.memory * workers:.1f} GB of memory for {workers} "
            f"worker(s), and {memory:.1f} GB are available. Stop something else, or use fewer "
            "workers (--workers)."
        )


def held(suite: Suite, cache: Path) -> float:
    """What a suite's protected models take already, in GB."""
    folders = (cache / "field" / "models").glob(f"{suite.name}-*")
    files = (file for folder in folders if folder.is_dir() for file in folder.rglob("*"))
    return sum(file.stat().st_size for file in files if file.is_file()) / GB
