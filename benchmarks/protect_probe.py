"""`unmergeable protect` with one thing looked at that its output does not show.

    python benchmarks/protect_probe.py hash MODEL OUT KEY KIND
    python benchmarks/protect_probe.py nohash MODEL OUT KEY KIND
    python benchmarks/protect_probe.py first MODEL OUT KEY KIND STARTED

hash: `protect` alone, without the command around it. nohash: the same without hashing any weights,
to be timed beside it; such a folder is of no use. first: prints the seconds from STARTED (as
time.time() has it) to the first byte that is written of a tensor.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any


class NoHash:
    """A hash of nothing."""

    def __init__(self, data: Any = b"") -> None:
        pass

    def update(self, data: Any, start: int = 0) -> None:
        """Does nothing."""

    def hexdigest(self) -> str:
        """A digest that fits no data."""
        return "0" * 64


def main(what: str, model: str, out: str, key: str, kind: str, started: str = "0") -> None:
    from unmergeable.checkpoint import shard
    from unmergeable.protection.protect import protect

    if what == "nohash":
        shard.FileHash = shard.blake3 = NoHash  # type: ignore[assignment,misc]
    seen = []
    plain = os.pwrite

    def pwrite(descriptor: int, data: Any, position: int) -> int:
        count = plain(descriptor, data, position)
        if position and not seen:
            seen.append(time.time() - float(started))
        return count

    os.pwrite = pwrite
    protect(model, out, key, settings={"kind": kind})
    print(seen[0])


if __name__ == "__main__":
    main(*sys.argv[1:])
