"""Makes a synthetic Llama-shaped bfloat16 folder of a real model's sizes, or a fine-tune of it.

    python benchmarks/llama_pair.py FOLDER base|expert 135M|8B LAYERS VOCABULARY

Weights are Gaussian, drawn for each tensor by its name, so that a folder can be made, removed and
made again, and a tensor of either be had without it. The fine-tune is the base plus one percent of
noise, rounded. A program of its own, so that its memory does not count as that of whatever is
measured afterwards.
"""

from __future__ import annotations

import json
import struct
import sys
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from llama_shapes import layer_shapes

SCALE, TAU = 0.02, 0.01
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


def weights(name: str, shape: tuple[int, ...], which: str) -> Pattern:
    """A tensor's bfloat16 patterns, flat.

    Args:
        name: its name.
        shape: its dimensions; gains are drawn around one.
        which: "base" or "expert".
    """
    numbers = _normal(name, shape) * np.float32(SCALE)
    numbers += len(shape) == 1
    base = _rounded(numbers)
    if which == "base":
        return base
    numbers = widened(base)
    numbers += _normal(f"{name}, moved", shape) * np.float32(SCALE * TAU)
    return _rounded(numbers)


def widened(patterns: Pattern) -> Single:
    """The numbers of bfloat16 patterns."""
    return (patterns.astype(np.uint32) << 16).view(np.float32)


def _normal(seed: str, shape: tuple[int, ...]) -> Single:
    random = np.random.Generator(np.random.SFC64(zlib.crc32(seed.encode())))
    return random.standard_normal(int(np.prod(shape)), np.float32)


def _rounded(numbers: Single) -> Pattern:
    """To the nearest, ties to even."""
    bits = numbers.view(np.uint32)
    bits += ((bits >> 16) & 1) + np.uint32(0x7FFF)
    return (bits >> 16).astype(np.uint16)


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
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, shape in shapes.items():
        stop = start + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            out.write(weights(name, shape, which).tobytes())


if __name__ == "__main__":
    folder, which, shape, layers, vocabulary = sys.argv[1:]
    sizes = SIZES[shape]._replace(layers=int(layers), vocabulary=int(vocabulary))
    make_folder(Path(folder), which, sizes)
