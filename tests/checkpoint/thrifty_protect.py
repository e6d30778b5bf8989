"""Prints by how many bytes protecting a folder, MODEL OUT, raises this process's peak memory."""

import re
import sys
import time
from pathlib import Path

from unmergeable.checkpoint import shards
from unmergeable.keys.key import Key
from unmergeable.protection.protect import protect


def peak() -> int:
    """Peak resident memory in bytes; getrusage would count the parent's, too."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) << 10


shards.BUDGET = 8 << 20
small, large, out = sys.argv[1:]
protect(small, f"{out} small", Key(bytes(32)), workers=2)
before = peak()
# A consumer that lags behind, so that nothing but the budget holds the workers back.
protect(large, out, Key(bytes(32)), workers=2, progress=lambda done: time.sleep(0.008))
print(peak() - before)
