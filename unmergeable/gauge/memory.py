"""Memory for tensors that is used again and again.

The operating system clears every page that it hands out, and takes large blocks back as soon as
they are free. A rewrite asks for the size of the whole model twice over, tensor by tensor, and that
clearing costs more than moving the numbers does. So a rewrite takes one arena, in which tensors
come and go; its pages are cleared once.
"""

from __future__ import annotations

import mmap
import threading
from bisect import insort
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
# Smaller blocks are left to the allocator, which keeps those anyway.
_LEAST = 1 << 16
_PAGE = 1 << 12
_current: ContextVar[Arena | None] = ContextVar("arena", default=None)


def empty(count: int) -> Bytes:
    """This many bytes of any content: from the arena in use, if there is one and it has room."""
    arena = _current.get()
    block = arena.lend(count) if arena is not None and count >= _LEAST else None
    return np.empty(count, np.uint8) if block is None else block


class Arena:
    """Memory that arrays borrow; each goes back when the last view of it is gone.

    Args:
        size: bytes. Nothing is taken from the machine before it is used.
    """

    def __init__(self, size: int) -> None:
        memory = _mapped(max(size, _PAGE))
        self._memory = np.frombuffer(memory, np.uint8)
        # Stretches (start, stop) in order, none beside another.
        self._free = [(0, len(memory))] if memory else []
        self._returned: deque[tuple[int, int]] = deque()
        self._lock = threading.Lock()

    @contextmanager
    def used(self) -> Iterator[None]:
        """Makes `empty` borrow from this arena, in this thread, until the block ends."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)

    def lend(self, count: int) -> Bytes | None:
        """The first free stretch of this many bytes; None if there is none."""
        whole = -(-count // _PAGE) * _PAGE
        with self._lock:
            self._settle()
            for place, (start, stop) in enumerate(self._free):
                if stop - start >= whole:
                    self._free[place : place + 1] = [(start + whole, stop)] * (stop > start + whole)
                    break
            else:
                return None
        loan = _Loan(self._returned, start, start + whole, self._memory[start : start + count])
        return np.asarray(loan)

    @property
    def room(self) -> int:
        """Bytes of the longest free stretch."""
        with self._lock:
            self._settle()
            return max((stop - start for start, stop in self._free), default=0)

    def _settle(self) -> None:
        """Joins what came back with the free stretches beside it."""
        while self._returned:
            start, stop = self._returned.popleft()
            before = next((f for f in self._free if f[1] == start), (start, start))
            after = next((f for f in self._free if f[0] == stop), (stop, stop))
            self._free = [f for f in self._free if f not in (before, after)]
            insort(self._free, (before[0], after[1]))


def _mapped(size: int) -> mmap.mmap | bytes:
    """Fresh memory; none where the system has not so much, as `empty` does without an arena too."""
    try:
        memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError:
        return b""
    with suppress(AttributeError, OSError):  # large pages, where the system has them
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


class _Loan:
    """What an array holds on to while it, or a view of it, is in use.

    It ends wherever the last reference is dropped, perhaps amid the arena's own work: so that it
    only leaves a note.
    """

    def __init__(
        self, returned: deque[tuple[int, int]], start: int, stop: int, block: Bytes
    ) -> None:
        self._returned, self._place, self._block = returned, (start, stop), block
        self.__array_interface__: dict[str, Any] = block.__array_interface__

    def __del__(self) -> None:
        self._returned.append(self._place)
