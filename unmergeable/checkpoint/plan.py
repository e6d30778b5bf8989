"""The plan of a rewriting: data from which any machine makes any of the output's weight files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from unmergeable.checkpoint.folder import ModelFolder
from unmergeable.checkpoint.header import Header, TensorEntry
from unmergeable.checkpoint.staging import Output
from unmergeable.checkpoint.target import Target
from unmergeable.gauge.memory import Bytes
from unmergeable.version import __version__

# Names what the journal notes of a shard: raise it when that changes, or a run takes over others.
NOTES = 5

Transform = Callable[[TensorEntry, Bytes], Bytes]
Pieces = Callable[[TensorEntry, Bytes], Iterable[Bytes]]


class Moves(NamedTuple):
    """What happens to a folder's tensors.

    Attributes:
        pieces: the change of one tensor's bytes; same size out as in. They come in order, piece
            after piece; each is taken before the next is asked for.
        source: the tensor to read for each name; a permutation of the names.
        by_rows: whether `pieces` may be given some rows of a tensor, as a tensor of fewer rows, so
            that those of the whole are what it makes of one part after the other.
        copies: how many times a tensor's bytes are in memory while it is changed.
        read: whether to digest each tensor that is read.
        written: whether to digest each tensor that is written; the file is digested anyway.
        added: what is put on a tensor before all else; what is digested as read has it already.
        read_as: the name under which a tensor that is read is digested: its own, unless `added`
            gives it another place.
    """

    pieces: Pieces
    source: Callable[[str], str]
    by_rows: Callable[[TensorEntry], bool] = lambda entry: False
    copies: int = 1
    read: bool = False
    written: bool = False
    added: Transform | None = None
    read_as: Callable[[str], str] = lambda name: name


class Recipe(Protocol):
    """What happens to a folder's tensors, as data that says nothing secret and can be pickled."""

    def opened(self, secret: bytes) -> Moves:
        """The changes themselves.

        Raises:
            UnmergeableError: a secret that does not fit.
        """


class Given(NamedTuple):
    """A recipe of functions, which no other process can have."""

    transform: Transform
    source: Callable[[str], str]
    read: bool
    written: bool

    def opened(self, secret: bytes) -> Moves:
        """See `Recipe`; nothing is secret here."""
        return Moves(
            lambda entry, data: [self.transform(entry, data)],
            self.source,
            copies=2,
            read=self.read,
            written=self.written,
        )


@dataclass(frozen=True)
class Plan:
    """What to make of a folder, and where.

    Attributes:
        folder: the input; its files at paths that do not depend on who reads them from where.
        recipe: what happens to its tensors.
        target: where the output's weight files go.
    """

    folder: ModelFolder
    recipe: Recipe
    target: Target

    @classmethod
    def of(cls, folder: ModelFolder, recipe: Recipe, staging: Output) -> Plan:
        """The plan for a staging; the arguments are those of the attributes."""
        files = tuple(_absolute(header) for header in folder.files)
        return cls(replace(folder, files=files), recipe, staging.target)


def fingerprint(folder: ModelFolder, about: Any) -> str | None:
    """Names a piece of work: the same inputs, unchanged, treated the same way.

    Args:
        folder: the input.
        about: how it is treated, as JSON.

    Returns:
        The name; None for inputs at a place that does not tell when they change.
    """
    inputs: list[Any] = [folder.config]
    for header in folder.files:
        if " " not in header.stamp:
            return None
        inputs.append([str(header.path.resolve()), header.stamp])
    return hashlib.sha256(json.dumps([NOTES, __version__, about, inputs]).encode()).hexdigest()


def _absolute(header: Header) -> Header:
    path = header.path
    return replace(header, path=path.absolute()) if isinstance(path, Path) else header
