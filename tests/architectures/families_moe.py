"""Mixtures of experts: one row per model class, as in `families.py`."""

from __future__ import annotations

import transformers

from tests.architectures.families import VOCAB, Family

COMMON = {
    "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": VOCAB, "max_position_embeddings": 64,
    "num_experts_per_tok": 2,
}  # fmt: skip
MIXTRAL = {**COMMON, "num_local_experts": 4}
ALL = {"num_experts_per_tok": 4}

MOE = [
    Family("mixtral", "MixtralForCausalLM", transformers.MixtralConfig, MIXTRAL, unrouted=ALL),
]  # fmt: skip
