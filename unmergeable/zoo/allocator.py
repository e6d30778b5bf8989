"""Restart the program once with allocator settings that make training on a CPU faster.

glibc hands large buffers back to the kernel at every training step and asks for them again; keeping
them spares the kernel zeroing the same pages over and over. The settings are read when a process
starts, so a running one has to replace itself.
"""

from __future__ import annotations

import os
import sys

SETTINGS = {
    "MALLOC_MMAP_THRESHOLD_": "17179869184",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "268435456",
}
DONE = "UNMERGEABLE_ALLOCATOR_SET"


def restart_once() -> None:
    """Replace this process by itself with `SETTINGS`; return if they are set or do not apply.

    Call it before any work: nothing is kept but the command line, the environment and open files.
    """
    if not sys.platform.startswith("linux") or DONE in os.environ:
        return
    if all(name in os.environ for name in SETTINGS):
        return
    environment = {**SETTINGS, **os.environ, DONE: "1"}
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
