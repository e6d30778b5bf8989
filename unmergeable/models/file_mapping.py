"""Stretches of an open file as arrays, each a private mapping of its own.

Python's own `mmap` duplicates the file's descriptor for each mapping, of which a model of many
tensors would take more than a process may have.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

GRANULE = mmap.ALLOCATIONGRANULARITY  # bytes; where a mapping may begin
_FAILED = ctypes.c_void_p(-1).value


def mapped(descriptor: int, start: int, size: int) -> npt.NDArray[np.uint8] | None:
    """A stretch of a file; what is written to it stays with this array.

    The file must not become shorter while the array, or a view of it, is in use.

    Args:
        descriptor: of the file, open for reading.
        start: a multiple of `GRANULE`.
        size: bytes, more than 0.

    Returns:
        None where the system cannot, or has no mapping left to give.
    """
    library = _library()
    if library is None:
        return None
    how = mmap.PROT_READ | mmap.PROT_WRITE
    address = library.mmap(None, size, how, mmap.MAP_PRIVATE, descriptor, start)
    if address == _FAILED:
        return None
    return np.asarray(_Mapping(library.munmap, address, size))


class _Mapping:
    """What an array holds on to while it, or a view of it, is in use."""

    def __init__(self, unmap: Any, address: int, size: int) -> None:
        self._unmap, self._place = unmap, (address, size)
        self.__array_interface__: dict[str, Any] = {
            "version": 3,
            "typestr": "|u1",
            "shape": (size,),
            "data": (address, False),
        }

    def __del__(self) -> None:
        self._unmap(*self._place)


@lru_cache(maxsize=1)
def _library() -> Any:
    """The C library, where its `mmap` is known to take a 64-bit offset as its last argument."""
    if not sys.platform.startswith("linux") or sys.maxsize < 1 << 32:
        return None
    library = ctypes.CDLL(None)
    size, whole, place = ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p
    library.mmap.argtypes = [place, size, whole, whole, whole, ctypes.c_longlong]
    library.mmap.restype = place
    library.munmap.argtypes = [place, size]
    return library
