"""A tiny Mixtral made of numpy, like the Llama in `tiny.py`: 2 layers of 4 experts, 32 wide."""

from pathlib import Path
from typing import Any

import numpy as np

from tests.tiny import LLAMA, NUMBERS, llama_shapes, save

EXPERTS = 4
MIXTRAL: dict[str, Any] = {
    **LLAMA,
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "num_local_experts": EXPERTS,
    "num_experts_per_tok": 2,
}


def mixtral_weights(seed: int = 0, dtype: str = "F32") -> dict[str, np.ndarray]:
    """Random weights, in the order in which transformers saves them."""
    width, ffn = MIXTRAL["hidden_size"], MIXTRAL["intermediate_size"]
    shapes = {name: shape for name, shape in llama_shapes().items() if ".mlp." not in name}
    for layer in range(MIXTRAL["num_hidden_layers"]):
        prefix = f"model.layers.{layer}.block_sparse_moe."
        shapes[prefix + "gate.weight"] = (EXPERTS, width)
        for expert in range(EXPERTS):
            for name, shape in (("w1", (ffn, width)), ("w2", (width, ffn)), ("w3", (ffn, width))):
                shapes[f"{prefix}experts.{expert}.{name}.weight"] = shape
    random = np.random.default_rng(seed)
    weights = {}
    for name in sorted(shapes):
        shape = shapes[name]
        values = random.normal(size=shape) * (0.5 if len(shape) == 1 else shape[-1] ** -0.5)
        weights[name] = (values + (len(shape) == 1)).astype(NUMBERS[dtype])
    return weights


def near(weights: dict[str, np.ndarray], seed: int, size: float = 0.02) -> dict[str, np.ndarray]:
    """A fine-tuned relative."""
    random = np.random.default_rng(seed)
    return {
        name: (w + size * w.std() * random.normal(size=w.shape)).astype(w.dtype)
        for name, w in weights.items()
    }


def mixtral(folder: Path, dtype: str = "F32", shards: int = 1, seed: int = 0) -> Path:
    """Writes the model folder."""
    return save(folder, mixtral_weights(seed, dtype), MIXTRAL, shards)
