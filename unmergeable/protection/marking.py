"""Putting a mark on a model: what is decided once, and the recipe that any machine can follow."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from unmergeable.architectures.layout import Layout
from unmergeable.checkpoint.folder import ModelFolder, check_same_tensors
from unmergeable.checkpoint.header import TensorEntry
from unmergeable.checkpoint.manifest import Link
from unmergeable.checkpoint.plan import Moves
from unmergeable.checkpoint.reader import TensorReader
from unmergeable.defences.mark import NAME, Mark, is_marked, release_of, scale_of
from unmergeable.errors import InputError
from unmergeable.gauge.floats import FORMATS, Float
from unmergeable.gauge.memory import Bytes
from unmergeable.keys.key import Key

_SECRET = "mark"  # the name under which a link keeps release, licensee and scales


@dataclass(frozen=True)
class MarkRecipe:
    """Marking; without the key it says nothing of the signs, nor for whom they are.

    Attributes:
        secret: release, licensee and scales, encrypted under the key.
    """

    secret: str

    def opened(self, secret: bytes) -> Moves:
        """See `Recipe`; the secret is the key's."""
        mark = opened_mark(self.secret, Key(secret))

        def pieces(entry: TensorEntry, data: Bytes) -> Iterator[Bytes]:
            yield mark.add(entry, data)

        return Moves(pieces, lambda name: name, copies=6)


def marked(
    folder: ModelFolder,
    base: ModelFolder | None,
    layout: Layout,
    key: Key,
    settings: Mapping[str, Any],
) -> tuple[Link, MarkRecipe]:
    """What a mark is for one model: what its manifest keeps, and how it is put on.

    Args:
        folder: the expert to release.
        base: its public base.
        layout: of both.
        key: the owner's.
        settings: `strength` and `licensee`, checked.

    Raises:
        InputError: no base, one of another kind, or an expert that equals it.
    """
    if base is None:
        raise InputError("a mark is added to what fine-tuning changed: give the public --base.")
    check_same_tensors(folder, base)
    layout.check_plain("marked")
    strength, licensee = float(settings["strength"]), str(settings["licensee"])
    scales: dict[str, float] = {}
    with TensorReader(folder) as expert, TensorReader(base) as anchor:
        release = release_of(folder, layout, expert)
        for name, entry in folder.tensors.items():
            if is_marked(layout, entry):
                scale = strength * scale_of(_values(expert, name) - _values(anchor, name))
                if scale:
                    scales[name] = scale
    if not scales:
        raise InputError(
            f"{folder.path} has the matrices of {base.path}: nothing was fine-tuned that could "
            "carry a mark."
        )
    mark = Mark(Mark.secret_of(key, release, licensee), scales)
    content = {"release": release, "licensee": licensee, "scales": scales}
    secret = key.encrypt(_SECRET, json.dumps(content).encode())
    public = {"strength": strength, "commitment": mark.commitment}
    return Link(NAME, public, lasting=True, secret=secret), MarkRecipe(secret)


def opened_mark(secret: str, key: Key) -> Mark:
    """The mark that a link keeps.

    Raises:
        KeyFileError: another key.
    """
    content = json.loads(key.decrypt(_SECRET, secret))
    return Mark(Mark.secret_of(key, content["release"], content["licensee"]), content["scales"])


def _values(reader: TensorReader, name: str) -> Float:
    return FORMATS[reader.entry(name).dtype].values(reader.read(name))
