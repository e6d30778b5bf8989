"""Putting a mark on a model: what is decided once, and what a manifest keeps of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from unmergeable.architectures.layout import Layout
from unmergeable.checkpoint.folder import ModelFolder, check_same_tensors
from unmergeable.checkpoint.manifest import Link
from unmergeable.checkpoint.reader import TensorReader
from unmergeable.defences.mark import NAME, Mark, is_marked, read_settings, release_of, scale_of
from unmergeable.errors import InputError
from unmergeable.keys.key import Key
from unmergeable.protection.register import padded

_SECRET = "mark"  # the name under which a link keeps release, licensee and scales


def marked(
    folder: ModelFolder,
    base: ModelFolder | None,
    layout: Layout,
    key: Key,
    settings: Mapping[str, Any],
) -> Link:
    """Decides on a mark for one model.

    Args:
        folder: the expert to release.
        base: its public base.
        layout: of both.
        key: the owner's.
        settings: as they were given.

    Returns:
        What the manifest keeps; without the key it says nothing of the signs, nor whose they are.

    Raises:
        InputError: a setting that cannot be; no base, one of another kind, or one that the expert
            equals.
    """
    if base is None:
        raise InputError("a mark is added to what fine-tuning changed: give the public --base.")
    check_same_tensors(folder, base)
    layout.check_plain("marked")
    known = read_settings(settings)
    strength, licensee = known["strength"], known["licensee"]
    scales: dict[str, float] = {}
    with TensorReader(folder) as expert, TensorReader(base) as anchor:
        release = release_of(folder, layout, expert)
        for name, entry in folder.tensors.items():
            if is_marked(layout, entry):
                scale = strength * scale_of(expert.values(name) - anchor.values(name))
                if scale:
                    scales[name] = scale
    if not scales:
        raise InputError(
            f"{folder.path} has the matrices of {base.path}: nothing was fine-tuned that could "
            "carry a mark."
        )
    return link_of(Mark.of(key, release, licensee, scales), key, strength)


def link_of(mark: Mark, key: Key, strength: float) -> Link:
    """What the manifest keeps of a mark."""
    content = {"release": mark.release, "licensee": mark.licensee, "scales": dict(mark.scales)}
    secret = key.encrypt(_SECRET, padded(content))
    public = {"strength": strength, "commitment": mark.commitment}
    return Link(NAME, public, lasting=True, secret=secret)


def mark_of(links: Sequence[Link], key: Key) -> Mark:
    """The mark that the first of a chain's defences puts on; one that adds nothing if it is none.

    Raises:
        KeyFileError: another key.
    """
    if not links or links[0].defence != NAME:
        return Mark(b"")
    content = json.loads(key.decrypt(_SECRET, links[0].secret))
    return Mark.of(key, content["release"], content["licensee"], content["scales"])
