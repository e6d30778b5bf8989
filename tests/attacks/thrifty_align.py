"""Prints by how many bytes aligning each folder, BASE OUT MODEL ..., raises the peak memory."""

import os
import re
import sys
from pathlib import Path

from unmergeable.attacks.align import align
from unmergeable.attacks.alignment import engine
from unmergeable.checkpoint import shards


def peak() -> int:
    """Peak resident memory in bytes; getrusage would count the parent's, too."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) << 10


os.sched_getaffinity = lambda process: set(range(16))  # so that nothing but the budget is short
shards.BUDGET = engine.BUDGET = 8 << 20
out, *models = sys.argv[1:]
align(models[0], f"{out} 0", models[0])  # imports, and whatever else stays
for model in models[1:]:
    before = peak()
    align(model, f"{out} {model.split('/')[-1]}", model)
    print(peak() - before)
