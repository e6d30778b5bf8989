"""Reads a folder's tensors by name, from files that stay open."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType

import numpy as np

from unmergeable.checkpoint.folder import ModelFolder
from unmergeable.checkpoint.header import TensorEntry
from unmergeable.checkpoint.source import Source, open_source
from unmergeable.errors import InputError, UnsupportedError
from unmergeable.gauge.floats import FORMATS, Float
from unmergeable.gauge.memory import Bytes


class TensorReader:
    """The tensors of one folder; a context manager that holds its files open.

    Args:
        folder: whose.
    """

    def __init__(self, folder: ModelFolder) -> None:
        self.folder = folder
        self._where: dict[str, tuple[Source, TensorEntry]] = {}
        self._stack = ExitStack()

    def __enter__(self) -> TensorReader:
        with self._stack as stack:
            for header in self.folder.files:
                source = open_source(header.path)
                stack.callback(source.close)
                self._where.update({e.name: (source, e) for e in header.tensors})
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
        return self.part(self._where[name][1])

    def values(self, name: str) -> Float:
        """A tensor's numbers in float64, in its shape.

        Raises:
            UnsupportedError: a dtype that holds no real numbers.
        """
        entry = self.entry(name)
        if entry.dtype not in FORMATS:
            raise UnsupportedError(f"{name} has dtype {entry.dtype}, which holds no real numbers.")
        return FORMATS[entry.dtype].values(self.read(name)).reshape(entry.shape)

    def part(self, entry: TensorEntry) -> Bytes:
        """The bytes of a tensor's rows that an entry of their own describes; see `row_parts`.

        Returns:
            Bytes that the caller may write to: torch takes them as they are.

        Raises:
            InputError: a file that cannot be read, or was cut meanwhile; so for all that read.
        """
        source = self._where[entry.name][0]
        try:
            content = source.read(entry)
        except OSError as error:
            where = error.filename or f"{entry.name} of {self.folder.path}"
            raise InputError(f"cannot read {where}: {error.strerror}.") from None
        return content if content.flags.writeable else content.copy()

    def piece(self, name: str, start: int, stop: int) -> Bytes:
        """Some consecutive bytes of a tensor; nothing else is read."""
        entry = self.entry(name)
        return self.part(replace(entry, start=entry.start + start, size=stop - start))

    def rows(self, name: str, chosen: slice) -> Bytes:
        """The bytes of some positions of a tensor's first axis; nothing else is read."""
        entry = self.entry(name)
        each = entry.size // entry.shape[0]
        places = range(entry.shape[0])[chosen]
        if places.step == 1:
            return self.piece(name, places.start * each, places.stop * each)
        return np.concatenate([self.piece(name, at * each, (at + 1) * each) for at in places])
