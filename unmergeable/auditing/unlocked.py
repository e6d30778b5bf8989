"""A protected model's weights as its key gives them back, in memory: nothing is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from unmergeable.architectures.layout import Layout
from unmergeable.checkpoint.digest import digest_of
from unmergeable.checkpoint.folder import CONFIG, ModelFolder
from unmergeable.checkpoint.manifest import Link, read_manifest
from unmergeable.checkpoint.reader import TensorReader
from unmergeable.checkpoint.rewrite import Side
from unmergeable.errors import ManifestError
from unmergeable.gauge.blas import one_thread
from unmergeable.keys.key import Key
from unmergeable.models.weights import Weights
from unmergeable.protection.protect import locked_chain
from unmergeable.protection.recipe import LockRecipe

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Unlocked:
    """What a key gave back.

    Attributes:
        weights: all tensors.
        exact: whether they are, by hash, what was locked, bit for bit.
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
    layout = Layout.of_lock(protected.config, protected.shapes)
    locked_chain(manifest, key, layout, protected)
    recipe = LockRecipe.of(protected, manifest.reversible, back=True, allow_non_finite=True)
    moves = recipe.opened(key.secret)
    before: dict[str, str] = {}
    after: dict[str, str] = {}
    tensors: dict[str, torch.Tensor] = {}
    with TensorReader(protected) as reader, one_thread():
        for name in protected.tensors:
            origin, read, written = moves.source(name), moves.read(), moves.written()
            data = reader.read(origin)
            read.update(data.data)
            back, done = np.empty(data.nbytes, np.uint8), 0
            for piece in moves.pieces(reader.entry(origin), data):
                back[done : done + len(piece)] = piece  # the next one takes its place
                done += len(piece)
            written.update(back.data)
            before[origin], after[name] = read.hexdigest(), written.hexdigest()
            tensors |= Weights.of_bytes(protected, {name: back}).tensors
    files = Side.of(protected, before).files
    files[CONFIG] = digest_of(protected.read_companion(CONFIG))
    for name, digest in files.items():
        if manifest.files.get(name) != digest:
            raise ManifestError(
                f"{protected.path / name} is not the file that was protected: its hash is not the "
                "manifest's. It is damaged, or was fine-tuned or converted since."
            )
    exact = Side.of(protected, after).weights == manifest.weights.get("original")
    if manifest.lossless and not exact:
        raise ManifestError(
            f"{protected.path}: unlocking gave weights that are not the original's, although key, "
            "manifest and files are intact. Report this."
        )
    return Unlocked(Weights(tensors), exact, manifest.lasting)
