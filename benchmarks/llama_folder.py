"""Makes a synthetic Llama-shaped bfloat16 folder with the tensor shapes of an 8B model.

    python benchmarks/llama_folder.py FOLDER GIGABYTES

A program of its own, so that its memory does not count as that of whatever is measured afterwards.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from llama_shapes import header, layer_shapes

HIDDEN, FFN, HEADS, GROUPS, HEAD, VOCAB = 4096, 14336, 32, 8, 128, 32000
SHARD = 2_000_000_000


def make_model(folder: Path, gigabytes: float) -> int:
    """Writes a folder of about that size; returns its tensors' bytes."""
    layer = layer_shapes(HIDDEN, HEADS, GROUPS, HEAD, FFN)
    ends = 2 * VOCAB * HIDDEN + HIDDEN
    size = sum(int(np.prod(shape)) for shape in layer.values())
    layers = max(1, round((gigabytes * 5e8 - ends) / size))
    tensors = {"model.embed_tokens.weight": (VOCAB, HIDDEN), "model.norm.weight": (HIDDEN,),
               "lm_head.weight": (VOCAB, HIDDEN)}  # fmt: skip
    for number in range(layers):
        tensors |= {f"model.layers.{number}.{name}": shape for name, shape in layer.items()}
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    filled = 0
    for name, shape in sorted(tensors.items()):
        if filled > SHARD:
            shards.append({})
            filled = 0
        shards[-1][name] = shape
        filled += 2 * int(np.prod(shape))
    folder.mkdir(parents=True)
    where, total = {}, 0
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        total += _write_shard(folder / file, shard)
        where |= dict.fromkeys(shard, file)
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
        "intermediate_size": FFN, "num_attention_heads": HEADS, "num_key_value_heads": GROUPS,
        "head_dim": HEAD, "num_hidden_layers": layers, "vocab_size": VOCAB, "dtype": "bfloat16",
        "tie_word_embeddings": False,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return total


def _write_shard(path: Path, shard: dict[str, tuple[int, ...]]) -> int:
    """Writes one file of weights of about the size that trained ones have; returns their bytes."""
    random = np.random.default_rng(0)
    # One block of them, written again and again.
    block = (random.normal(size=1 << 24) * 0.02).astype(np.float32).view(np.uint32) >> 16
    bits = block.astype(np.uint16)
    with path.open("wb") as out:
        out.write(header(shard))
        for shape in shard.values():
            left = int(np.prod(shape))
            while left:
                out.write(bits[:left].tobytes())
                left -= min(left, len(bits))
    return sum(2 * int(np.prod(shape)) for shape in shard.values())


if __name__ == "__main__":
    print(make_model(Path(sys.argv[1]), float(sys.argv[2])))
