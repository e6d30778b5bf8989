"""Brings a file to the disk while it is written, and gives back the memory that it took.

What is written stays in memory, where the system may let it grow to gigabytes before the disk gets
any. Each of those pages has to be had first, from other programs' files or from a virtual machine's
runner, and the disk idles meanwhile. A whole model would go through memory that nobody reads again.
So a file is sent on some bytes at a time, and its pages are let go as soon as the disk has them:
the next bytes take those.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from concurrent.futures import Executor as Pool
from concurrent.futures import Future

# Bytes that are sent on at a time: enough for the disk to work at its full rate.
FLUSH = 32 << 20
# How often that may be under way for one file before the writer waits for the disk.
AHEAD = 2


class Writeback:
    """A file on its way to the disk.

    Args:
        descriptor: of the file, open for writing; closed at the end.
        disk: the thread that waits for the disk, or for several files' disks.
        lasting: whether the file stays there; if not, it is only closed.
    """

    def __init__(self, descriptor: int, disk: Pool, lasting: bool) -> None:
        self._descriptor, self._disk, self._lasting = descriptor, disk, lasting
        self._lock = threading.Lock()
        self._count = 0
        self._flushes: deque[Future[None]] = deque()

    def wrote(self, count: int) -> None:
        """Takes note of bytes that were written; waits where the disk is behind. From any thread.

        Raises:
            OSError: what the disk refused.
        """
        late = None
        with self._lock:
            self._count += count
            if self._lasting and self._count >= FLUSH:
                self._count = 0
                self._flushes.append(self._disk.submit(self._flush))
                if len(self._flushes) > AHEAD:
                    late = self._flushes.popleft()
        if late is not None:
            late.result()

    def finish(self) -> Future[None]:
        """Ends a file that is complete.

        Returns:
            What is done when it is on the disk.
        """
        return self._disk.submit(self._sync)

    def leave(self) -> None:
        """Closes a file that will not be complete."""
        self._disk.submit(os.close, self._descriptor)  # which comes after its flushes

    def _flush(self) -> None:
        os.fdatasync(self._descriptor)
        self._forget()

    def _sync(self) -> None:
        try:
            for flush in self._flushes:
                flush.result()  # the disk tells of an error once
            if self._lasting:
                os.fsync(self._descriptor)
                self._forget()
        finally:
            os.close(self._descriptor)

    def _forget(self) -> None:
        if hasattr(os, "posix_fadvise"):  # not everywhere; pages that are not on the disk yet stay
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
