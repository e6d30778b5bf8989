"""A protected model's weights as its key gives them back, in memory: nothing is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from unmergeable.architectures.layout import Layout
from unmergeable.checkpoint.digest import digest_of, weights_digest
from unmergeable.checkpoint.folder import CONFIG, MANIFEST, ModelFolder
from unmergeable.checkpoint.manifest import Link, read_manifest
from unmergeable.checkpoint.reader import TensorReader
from unmergeable.errors import ManifestError
from unmergeable.gauge.blas import one_thread
from unmergeable.keys.key import Key
from unmergeable.models.weights import Weights
from unmergeable.protection.protect import (
    check_headers,
    check_weights,
    locked_chain,
    not_protected,
)
from unmergeable.protection.recipe import LockRecipe

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Unlocked:
    """What a key gave back.

    Attributes:
        weights: all tensors.
        exact: whether they are, by digest, what was locked, bit for bit.
        lasting: the defences that no key undoes; they stay.
    """

    weights: Weights
    exact: bool
    lasting: tuple[Link, ...]


def unlocked(protected: ModelFolder, key: Key) -> Unlocked:
    """Unlocks as `protection.unlock` does, and checks what it checks.

    Args:
        protected: a folder that `protect` wrote.
        key: the one it was protected with.

    Raises:
        UnmergeableError: another key, a damaged manifest or file.
    """
    manifest = read_manifest(protected.path)
    if not manifest.checkable:
        raise ManifestError(
            f"{protected.path / MANIFEST} has version {manifest.version}, whose digests this "
            "release does not check: an audit would not know what it unlocks. Unlock it and "
            "protect it again."
        )
    if digest_of(protected.read_companion(CONFIG)) != manifest.files.get(CONFIG):
        raise not_protected(protected, CONFIG)
    layout = Layout.of_lock(protected.config, protected.shapes)
    locked_chain(manifest, key, layout, protected)
    check_headers(protected, manifest)
    recipe = LockRecipe.of(protected, manifest.reversible, back=True, allow_non_finite=True)
    moves = recipe.opened(key.secret)
    before: dict[str, str] = {}
    after: dict[str, str] = {}
    tensors: dict[str, torch.Tensor] = {}
    with TensorReader(protected) as reader, one_thread():
        for name in protected.tensors:
            origin = moves.source(name)
            data = reader.read(origin)
            if moves.read:
                before[origin] = digest_of(data.data)
            back, done = np.empty(data.nbytes, np.uint8), 0
            for piece in moves.pieces(reader.entry(origin), data):
                back[done : done + len(piece)] = piece  # the next one takes its place
                done += len(piece)
            after[name] = digest_of(back.data)
            tensors |= Weights.of_bytes(protected, {name: back}).tensors
    read = weights_digest(protected.tensors, before) if before else ""
    exact = check_weights(protected, manifest, read, weights_digest(protected.tensors, after))
    return Unlocked(Weights(tensors), exact, manifest.lasting)
