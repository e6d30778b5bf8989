"""Reads a folder's tensors by name, from files that stay open."""

from __future__ import annotations

import os
from contextlib import ExitStack
from types import TracebackType

from unmergeable.checkpoint.folder import ModelFolder
from unmergeable.checkpoint.header import TensorEntry
from unmergeable.checkpoint.rewrite import Bytes, read_at


class TensorReader:
    """The tensors of one folder; a context manager that holds its files open.

    Args:
        folder: whose.
    """

    def __init__(self, folder: ModelFolder) -> None:
        self.folder = folder
        self._where: dict[str, tuple[int, TensorEntry]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> TensorReader:
        with self._stack as stack:
            for header in self.folder.files:
                descriptor = os.open(header.path, os.O_RDONLY)
                stack.callback(os.close, descriptor)
                self._where.update({e.name: (descriptor, e) for e in header.tensors})
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def entry(self, name: str) -> TensorEntry:
        """What the header says of a tensor."""
        return self._where[name][1]

    def read(self, name: str) -> Bytes:
        """A tensor's bytes, as stored."""
        return read_at(*self._where[name])
