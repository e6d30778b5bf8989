"""Restart the program once with settings that make models on a CPU faster.

Memory: glibc hands large buffers back to the kernel after use and asks for them again at the next
step; keeping them spares the kernel zeroing the same pages over and over. One arena for all threads
keeps what one of them freed within reach of the others. Only buffers of 64 MB and more, such as
embedding tables, go back at once: there are few of them, and kept they would double the footprint.

Threads: OpenMP's threads spin while they wait for each other. On a machine that does something else
besides, they spin through what the others need, and everything takes several times as long; so they
spin for microseconds only, which costs nothing where nobody else is at work.

Kernels: oneDNN compiles one for every shape that it multiplies, and keeps a thousand in each of two
caches, at about 0.6 MB a kernel. Networks that route tokens bring a new shape at every call; a few
hundred are enough for the shapes that come back.

What is kept is in the way where much is freed and memory for something else is wanted, such as
between two merges: `give_back` returns it.

The settings are read when a process starts, so a running one has to replace itself.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import lru_cache
from typing import Any

SETTINGS = {
    "MALLOC_MMAP_THRESHOLD_": "67108864",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "MALLOC_TOP_PAD_": "67108864",
    "MALLOC_ARENA_MAX": "1",
    "GOMP_SPINCOUNT": "3000",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256",
    "LRU_CACHE_CAPACITY": "256",
}
# A tenth faster in training, where every step asks for the embedding table's gradient again.
TRAINING = {"MALLOC_MMAP_THRESHOLD_": "17179869184", "MALLOC_TOP_PAD_": "268435456"}
DONE = "UNMERGEABLE_PROCESS_SET"


def restart_once(*, training: bool = False) -> None:
    """Replace this process by itself with `SETTINGS`; return if they are set or do not apply.

    Call it before any work: nothing is kept but the command line, the environment and open files.

    Args:
        training: whether most of the time will go into training, and memory matters less.
    """
    settings = {**SETTINGS, **(TRAINING if training else {})}
    if not sys.platform.startswith("linux") or DONE in os.environ:
        return
    if all(name in os.environ for name in settings):
        return
    environment = {**settings, **os.environ, DONE: "1"}
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def give_back() -> None:
    """Hands memory that was freed back to the system, where the C library is glibc.

    Call it when a whole model was let go, as it costs the next one the zeroing of its pages.
    """
    if library := _glibc():
        library.malloc_trim(0)


@lru_cache(maxsize=1)
def _glibc() -> Any:
    """The C library, if it can trim."""
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") else None
