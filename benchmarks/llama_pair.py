"""Makes a synthetic Llama-shaped bfloat16 folder of a real model's sizes, or a fine-tune of it.

    python benchmarks/llama_pair.py FOLDER base|expert|residual 135M|8B LAYERS VOCABULARY

Weights are Gaussian, drawn for each tensor by its name, so that either folder can be made without
the other. The fine-tune is the base plus one percent of noise, rounded. `residual` prints how far a
folder is from the fine-tune, in units of the task vector, without that being on the disk. A program
of its own, so that its memory does not count as that of whatever is measured afterwards.
"""

from __future__ import annotations

import json
import math
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from llama_shapes import header, layer_shapes

from unmergeable.checkpoint.folder import open_folder
from unmergeable.checkpoint.reader import TensorReader

SCALE, TAU = 0.02, 0.01
PIECE = 1 << 24  # numbers that are drawn together
WHICH = ("base", "expert")
Pattern = npt.NDArray[np.uint16]
Single = npt.NDArray[np.float32]


class Sizes(NamedTuple):
    """Of a Llama-shaped model."""

    hidden: int
    ffn: int
    heads: int
    groups: int
    head: int
    tied: bool
    layers: int
    vocabulary: int


SIZES = {
    "135M": Sizes(576, 1536, 9, 3, 64, True, 30, 49152),  # SmolLM2's
    "8B": Sizes(4096, 14336, 32, 8, 128, False, 32, 128256),  # Llama 3's
}


def shapes_of(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor."""
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (sizes.vocabulary, sizes.hidden),
        "model.norm.weight": (sizes.hidden,),
    }
    if not sizes.tied:
        shapes["lm_head.weight"] = shapes["model.embed_tokens.weight"]
    layer = layer_shapes(sizes.hidden, sizes.heads, sizes.groups, sizes.head, sizes.ffn)
    for number in range(sizes.layers):
        for name, shape in layer.items():
            shapes[f"model.layers.{number}.{name}"] = shape
    return shapes


def weights(name: str, shape: tuple[int, ...]) -> Iterator[tuple[Pattern, Pattern]]:
    """A tensor's bfloat16 patterns, of the base and of its fine-tune, a flat piece at a time.

    Args:
        name: its name.
        shape: its dimensions; gains are drawn around one.
    """
    first, second = (
        np.random.Generator(np.random.SFC64(zlib.crc32(seed.encode())))
        for seed in (name, f"{name}, moved")
    )
    left = math.prod(shape)
    while left:
        count = min(left, PIECE)
        numbers = first.standard_normal(count, np.float32) * np.float32(SCALE)
        numbers += len(shape) == 1
        base = _rounded(numbers)
        moved = widened(base)
        moved += second.standard_normal(count, np.float32) * np.float32(SCALE * TAU)
        yield base, _rounded(moved)
        left -= count


def widened(patterns: Pattern) -> Single:
    """The numbers of bfloat16 patterns."""
    return (patterns.astype(np.uint32) << 16).view(np.float32)


def _rounded(numbers: Single) -> Pattern:
    """To the nearest, ties to even."""
    bits = numbers.view(np.uint32)
    bits += ((bits >> 16) & 1) + np.uint32(0x7FFF)
    return (bits >> 16).astype(np.uint16)


def residual(folder: Path, sizes: Sizes) -> float:
    """A folder's distance to the true fine-tune, in units of the task vector."""
    left = tau = 0.0
    with TensorReader(open_folder(folder)) as reader:
        for name, shape in shapes_of(sizes).items():
            start = 0
            for base, wanted in weights(name, shape):
                have = reader.piece(name, start, start + wanted.nbytes).view(np.uint16)
                gap, move = (widened(x) - widened(wanted) for x in (have, base))
                left, tau = left + float(np.vdot(gap, gap)), tau + float(np.vdot(move, move))
                start += wanted.nbytes
    return math.sqrt(left / tau)


def make_folder(folder: Path, which: str, sizes: Sizes) -> None:
    """Writes one of the two folders, a file for each layer and one for the rest."""
    shapes = shapes_of(sizes)
    shards: dict[str, list[str]] = {}
    for name in shapes:
        number = name.split(".")[2] if ".layers." in name else sizes.layers
        file = f"model-{int(number) + 1:05d}-of-{sizes.layers + 1:05d}.safetensors"
        shards.setdefault(file, []).append(name)
    folder.mkdir(parents=True)
    for file, names in shards.items():
        _write_shard(folder / file, {name: shapes[name] for name in names}, which)
    where = {name: file for file, names in shards.items() for name in names}
    size = 2 * sum(int(np.prod(shape)) for shape in shapes.values())
    index = {"metadata": {"total_size": size}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16",
        "hidden_size": sizes.hidden, "intermediate_size": sizes.ffn, "head_dim": sizes.head,
        "num_attention_heads": sizes.heads, "num_key_value_heads": sizes.groups,
        "num_hidden_layers": sizes.layers, "vocab_size": sizes.vocabulary,
        "tie_word_embeddings": sizes.tied,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=2))


def _write_shard(path: Path, shapes: dict[str, tuple[int, ...]], which: str) -> None:
    with path.open("wb") as out:
        out.write(header(shapes))
        for name, shape in shapes.items():
            for pair in weights(name, shape):
                out.write(pair[WHICH.index(which)].data)


if __name__ == "__main__":
    folder, which, shape, layers, vocabulary = sys.argv[1:]
    sizes = SIZES[shape]._replace(layers=int(layers), vocabulary=int(vocabulary))
    if which == "residual":
        print(residual(Path(folder), sizes))
    else:
        make_folder(Path(folder), which, sizes)
