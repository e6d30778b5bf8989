"""Times commands as their users wait for them: until what they wrote is on the disk."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_TAKE = (
    "import mmap as m, sys; "
    "m.mmap(-1, int(sys.argv[1]), flags=m.MAP_PRIVATE | m.MAP_ANONYMOUS | m.MAP_POPULATE)"
)
_SPARED = 1 << 30  # bytes of free memory that are left alone


@dataclass(frozen=True)
class Run:
    """One timed command: seconds until synced, processor seconds, peak resident bytes."""

    wall: float
    cpu: float
    peak: int


def timed(command: list[str], stdout: int | IO[bytes] = subprocess.DEVNULL) -> Run:
    """Runs a command and waits until what it wrote is on the disk.

    Args:
        command: its words.
        stdout: where its output goes.
    """
    os.sync()
    start = time.perf_counter()
    child = subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE)
    assert child.stderr is not None
    said = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    os.sync()
    wall = time.perf_counter() - start
    if status:
        raise SystemExit(f"{' '.join(command)} failed with status {status}:\n{said.decode()}")
    return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)


def warm_memory(count: int) -> None:
    """Takes this many bytes of free memory and lets them go, for a command that starts at once.

    A virtual machine may give free memory back to its runner after some seconds, and gets it again
    page by page at the first touch: that can take longer than the command that comes first.
    """
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemFree"))
    if (taken := min(count, free - _SPARED)) > 0:
        subprocess.run([sys.executable, "-c", _TAKE, str(taken)], check=True)


def bring_to_memory(folders: Sequence[Path]) -> None:
    """Reads all files of some folders, so that a command finds them in the page cache.

    A virtual machine may reclaim what was not read for some seconds, such as the folder of the job
    before the last: its command would then be timed reading from the disk, and others not.
    """
    for file in (path for folder in folders for path in sorted(folder.iterdir())):
        with file.open("rb", buffering=0) as stream:
            while stream.read(1 << 20):
                pass


def leave_on_disk(folders: Sequence[Path]) -> None:
    """Takes all files of some folders out of the page cache; on tmpfs nothing happens."""
    for file in (path for folder in folders for path in sorted(folder.iterdir())):
        with file.open("rb", buffering=0) as stream:
            os.fsync(stream.fileno())  # what is not there yet stays
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@dataclass(frozen=True)
class Job:
    """A command to be timed.

    Attributes:
        name: for people.
        command: with its arguments.
        out: what it makes, which is removed after each run.
        reads: folders whose files it reads; they are read once just before it.
        cold: if so, they are taken out of the page cache instead.
    """

    name: str
    command: list[str]
    out: Path | None = None
    reads: tuple[Path, ...] = ()
    cold: bool = False


def in_turn(jobs: list[Job], turns: int, memory: int = 0) -> dict[str, list[Run]]:
    """Runs all jobs once, then again, and so on, so that a noisy minute hits all of them alike.

    The first turn warms up and is not counted.

    Args:
        jobs: what to run.
        turns: how often, besides.
        memory: bytes of it that are made warm before each run; see `warm_memory`.
    """
    runs: dict[str, list[Run]] = {job.name: [] for job in jobs}
    for turn in range(turns + 1):
        for job in jobs:
            warm_memory(memory)
            (leave_on_disk if job.cold else bring_to_memory)(job.reads)
            run = timed(job.command)
            if job.out is not None:
                shutil.rmtree(job.out)
            if turn:
                runs[job.name].append(run)
    return runs


def spread(values: list[float], digits: int = 2) -> str:
    """Median, minimum and maximum."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


HEAD = f"{'job':<34} {'wall s':>24} {'CPU s':>7} {'peak MB':>8} {'wall / first':>22}"


def line(name: str, runs: list[Run], first: list[Run]) -> str:
    """One row of a table: a job's medians, and its ratio to the first job, turn by turn."""
    ratios = [run.wall / base.wall for run, base in zip(runs, first, strict=True)]
    peak = max(run.peak for run in runs) / 1e6
    cpu = statistics.median(run.cpu for run in runs)
    wall = spread([run.wall for run in runs])
    return f"{name:<34} {wall:>24} {cpu:>7.1f} {peak:>8.0f} {spread(ratios):>22}"
