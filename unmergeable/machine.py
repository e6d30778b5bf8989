"""What this machine has: processors, memory, and how busy it is."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from unmergeable.extras import optional


def cores() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def busy() -> float:
    """Load average of the last minute per processor; from about 1 on, times are upper bounds."""
    return os.getloadavg()[0] / cores() if hasattr(os, "getloadavg") else 0.0


def available_memory() -> int:
    """Bytes that can be had without swapping."""
    return int(optional("psutil").virtual_memory().available)


def total_memory() -> int:
    """Bytes of memory."""
    return int(optional("psutil").virtual_memory().total)


def processor() -> str:
    """The processor's name, as far as the system tells."""
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
