"""Keeps numpy's BLAS to one thread where our own threads share the processors already.

OpenBLAS splits even small products among all processors, and its threads wait by spinning. Under
threads of ours, or beside other programs, that costs several times the work itself. numpy has no
switch for it after import, so the library that numpy's wheels carry is asked directly; where it is
another one, nothing happens.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np


@contextmanager
def one_thread() -> Iterator[None]:
    """Limits BLAS to one thread per call, in the whole process, until the block ends."""
    library = _library()
    if library is None:
        yield
        return
    before = library.scipy_openblas_get_num_threads64_()
    library.scipy_openblas_set_num_threads64_(1)
    try:
        yield
    finally:
        library.scipy_openblas_set_num_threads64_(before)


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL | None:
    """The OpenBLAS beside numpy, which is loaded by now; None if there is none."""
    for path in (Path(np.__file__).parent.parent / "numpy.libs").glob("libscipy_openblas64_*"):
        try:
            library = ctypes.CDLL(str(path))
            library.scipy_openblas_get_num_threads64_.restype = ctypes.c_int
            library.scipy_openblas_set_num_threads64_.argtypes = [ctypes.c_int]
        except (OSError, AttributeError):
            continue
        return library
    return None
