"""What the machine can do at most: bytes per second through memory and onto a disk.

    python benchmarks/roofline.py FOLDER

A program of its own, so that its memory does not count as that of whatever is measured afterwards.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from blake3 import blake3


def memory_bandwidth() -> float:
    """Bytes per second, read and written together, that one core copies in memory."""
    source = np.ones(1 << 28, np.uint8)
    target = np.empty_like(source)

    def copy() -> None:
        target[:] = source

    return 2 * source.nbytes / _best(copy, 5)


def disk_bandwidth(where: Path, count: int = 2 << 30) -> float:
    """Bytes per second that one file takes in large writes until it is on the disk."""
    block = np.random.default_rng(0).bytes(16 << 20)
    path = where / "bandwidth"

    def write() -> None:
        with path.open("wb") as file:
            for _ in range(count // len(block)):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        path.unlink()

    return count / _best(write, 2)


def _best(action: Callable[[], None], times: int) -> float:
    best = float("inf")
    for _ in range(times):
        start = time.perf_counter()
        action()
        best = min(best, time.perf_counter() - start)
    return best


def hash_bandwidth() -> float:
    """Bytes per second that one core hashes, a megabyte at a time."""
    block, count = bytes(1 << 20), 512

    def digest() -> None:
        hasher = blake3()
        for _ in range(count):
            hasher.update(block)

    return count * len(block) / _best(digest, 5)


if __name__ == "__main__":
    disk = disk_bandwidth(Path(sys.argv[1]))
    print(json.dumps({"memory": memory_bandwidth(), "disk": disk, "hash": hash_bandwidth()}))
