"""More language models that see: one row each, as in `families_images.py`."""

from __future__ import annotations

import transformers as t

from tests.architectures.families import VOCAB, Family
from tests.architectures.families_images import (
    COMMON,
    QWEN_IDS,
    QWEN_ROPE,
    QWEN_TOWER,
    patches,
    text,
)

DEEP = {
    **QWEN_TOWER, "depth": 3, "hidden_size": 32, "out_hidden_size": 16, "intermediate_size": 14,
    "deepstack_visual_indexes": [0, 1], "num_position_embeddings": 9,
}  # fmt: skip
EXPERTS = {
    "num_experts": 4, "moe_intermediate_size": 12, "mlp_only_layers": [0], "num_experts_per_tok": 2,
}  # fmt: skip
ALL_EXPERTS = {**EXPERTS, "num_experts_per_tok": 4}


def qwen3_vl_moe(**experts: object) -> dict[str, object]:
    return {
        **QWEN_IDS, "vision_config": DEEP,
        "text_config": text("qwen3_vl_moe_text", rope_parameters=QWEN_ROPE, **experts),
    }  # fmt: skip


LAYERS = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
GEMMA4 = {
    **COMMON, "num_attention_heads": 8, "num_key_value_heads": 4, "num_hidden_layers": 4,
    "global_head_dim": 12, "layer_types": LAYERS, "sliding_window": 5,
    "hidden_size_per_layer_input": 6, "vocab_size_per_layer_input": VOCAB,
}  # fmt: skip
GEMMA4_MOE = {
    "num_hidden_layers": 3, "layer_types": [*LAYERS[:2], LAYERS[0]], "attention_k_eq_v": True,
    "num_global_key_value_heads": 2, "hidden_size_per_layer_input": 0, "enable_moe_block": True,
    "num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 14,
}  # fmt: skip

SEEING = [
    Family("qwen3-vl", "Qwen3VLForConditionalGeneration", t.Qwen3VLConfig,
           {**QWEN_IDS, "text_config": text("qwen3_vl_text", rope_parameters=QWEN_ROPE),
            "vision_config": DEEP},
           feed=patches),
    Family("qwen3-vl-moe", "Qwen3VLMoeForConditionalGeneration", t.Qwen3VLMoeConfig,
           qwen3_vl_moe(**EXPERTS), unrouted=qwen3_vl_moe(**ALL_EXPERTS), feed=patches),
    Family("qwen3-vl-text", "Qwen3VLTextModel", t.Qwen3VLTextConfig,
           {**COMMON, "rope_parameters": QWEN_ROPE}),
    Family("qwen3-vl-moe-text", "Qwen3VLMoeTextModel", t.Qwen3VLMoeTextConfig,
           {**COMMON, **EXPERTS, "rope_parameters": QWEN_ROPE}, unrouted=ALL_EXPERTS),
    Family("gemma4-text", "Gemma4ForCausalLM", t.Gemma4TextConfig,
           {**GEMMA4, "num_kv_shared_layers": 1, "use_double_wide_mlp": True}),
    Family("gemma4-moe", "Gemma4ForCausalLM", t.Gemma4TextConfig, GEMMA4 | GEMMA4_MOE,
           unrouted={"top_k_experts": 4}),
]  # fmt: skip
