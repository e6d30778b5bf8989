"""Standard streams that may be closed, full, or a pipe that nobody reads any more.

What a command did does not depend on whether its report could be printed, and neither does its exit
code: 1 means that the answer is no, and never that a pipe was closed.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

_UTF_8 = "utf-8"


class Guarded(io.TextIOBase):
    """A text stream that notes the first failure to write, and swallows what comes after.

    It has no `buffer`, so that nobody writes past it. What the encoding lacks is written as an
    escape sequence.

    Attributes:
        failure: why it could not be written; None while it can.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self.failure: Exception | None = None

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Of the stream below."""
        return getattr(self._stream, "encoding", None) or _UTF_8

    def isatty(self) -> bool:
        """Whether a person reads it."""
        with suppress(OSError, ValueError):
            return self._stream is not None and self.failure is None and self._stream.isatty()
        return False

    def fileno(self) -> int:
        """The descriptor of the stream below.

        Raises:
            io.UnsupportedOperation: it has none.
        """
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return self._stream.fileno()

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, text: str) -> int:
        """Writes, or does not; see the class."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if self._stream is not None and self.failure is None:
            try:
                try:
                    self._stream.write(text)
                except UnicodeEncodeError:
                    plain = text.encode(self.encoding, "backslashreplace")
                    self._stream.write(plain.decode(self.encoding))
            except (OSError, ValueError) as error:
                self._give_up(error)
        return len(text)

    def flush(self) -> None:
        """Flushes, or does not; see the class."""
        if self._stream is not None and self.failure is None:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """Lets what is still buffered vanish, of which Python would complain when it ends."""
        self.failure = error
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            try:
                os.dup2(nowhere, self.fileno())
            finally:
                os.close(nowhere)


@contextmanager
def guarded() -> Iterator[tuple[Guarded, Guarded]]:
    """Puts guards before standard output and standard error; yields them."""
    before = sys.stdout, sys.stderr
    both = Guarded(sys.stdout), Guarded(sys.stderr)
    sys.stdout, sys.stderr = both  # type: ignore[assignment]
    try:
        yield both
    finally:
        for stream in both:
            stream.flush()
        sys.stdout, sys.stderr = before


def lost(stream: Guarded) -> str:
    """Why a stream could not be written; empty if it could, or if its reader just left."""
    error = stream.failure
    if error is None or (isinstance(error, OSError) and error.errno == errno.EPIPE):
        return ""
    return getattr(error, "strerror", None) or str(error)


def hold() -> None:
    """Opens standard streams that are closed onto nothing.

    Else the next file that is opened, such as weights, gets the descriptor of standard output, and
    whatever a library prints goes into it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest that is free
            os.set_inheritable(descriptor, True)
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding=_UTF_8)  # noqa: SIM115, PTH123 (for the whole run)
