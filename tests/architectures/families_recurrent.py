"""Models with recurrent or short-convolution layers, as in `families.py`."""

from __future__ import annotations

import transformers

from tests.architectures.families import VOCAB, Family
from tests.architectures.families_images import QWEN_IDS, QWEN_TOWER, patches

COMMON = {
    "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 3, "vocab_size": VOCAB, "max_position_embeddings": 64,
    "tie_word_embeddings": False, "pad_token_id": 0,
}  # fmt: skip
EXPERTS = {
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12,
    "shared_expert_intermediate_size": 10,
}  # fmt: skip
DELTA = {
    **COMMON, "attention_bias": True, "head_dim": 8, "linear_num_key_heads": 3,
    "linear_num_value_heads": 6, "linear_key_head_dim": 7, "linear_value_head_dim": 5,
    "linear_conv_kernel_dim": 4, "layer_types": ["full_attention", "linear_attention"],
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
}  # fmt: skip
OLMO = {
    **COMMON, "hidden_size": 24, "attention_bias": True, "linear_num_key_heads": 3,
    "linear_num_value_heads": 6, "linear_key_head_dim": 10, "linear_value_head_dim": 5,
    "layer_types": ["full_attention", "linear_attention"],
}  # fmt: skip
LIQUID = {
    **COMMON, "hidden_size": 24, "layer_types": ["full_attention", "conv"], "conv_bias": True,
}  # fmt: skip
MAMBA = {
    "hidden_size": 12, "num_heads": 6, "head_dim": 4, "state_size": 5, "n_groups": 3,
    "num_hidden_layers": 2, "vocab_size": VOCAB, "use_bias": True, "pad_token_id": 0,
}  # fmt: skip
BAMBA = {
    **COMMON, "hidden_size": 24, "attention_bias": True, "mamba_n_heads": 6, "mamba_n_groups": 3,
    "mamba_d_state": 5, "mamba_expand": 1, "mamba_proj_bias": True,
}  # fmt: skip
NEMOTRON = {
    "hidden_size": 24, "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 4,
    "layers_block_type": ["full_attention", "moe", "linear_attention", "mlp"],
    "intermediate_size": 20, "ssm_state_size": 5, "mamba_num_heads": 6, "mamba_head_dim": 7,
    "n_groups": 3, "n_routed_experts": 9, "n_group": 3, "topk_group": 2, "num_experts_per_tok": 4,
    "moe_intermediate_size": 12, "moe_shared_expert_intermediate_size": 10, "mlp_bias": True,
    "use_bias": True, "vocab_size": VOCAB, "pad_token_id": 0,
}  # fmt: skip
ALL_GROUPS = {"num_experts_per_tok": 9, "topk_group": 3}
ALL = {"num_experts_per_tok": 4}
THIRD = {key: value for key, value in DELTA.items() if key != "intermediate_size"}  # no FFN
TOWER = {
    **QWEN_TOWER, "hidden_size": 32, "out_hidden_size": 16, "intermediate_size": 14,
    "num_position_embeddings": 9,
}  # fmt: skip


def sees(kind: str, **changes: object) -> dict[str, object]:
    """A model with such a language model and a vision tower."""
    rope = {**DELTA["rope_parameters"], "mrope_section": [1, 1, 0]}
    language = {**THIRD, "model_type": kind, "rope_parameters": rope, **changes}
    return {**QWEN_IDS, "text_config": language, "vision_config": TOWER}


RECURRENT = [
    Family("qwen3-next", "Qwen3NextForCausalLM", transformers.Qwen3NextConfig,
           {**DELTA, **EXPERTS, "mlp_only_layers": [0]}, unrouted=ALL),
    Family("qwen3.5-text", "Qwen3_5ForCausalLM", transformers.Qwen3_5TextConfig, DELTA),
    Family("qwen3.5", "Qwen3_5ForConditionalGeneration", transformers.Qwen3_5Config,
           sees("qwen3_5_text", intermediate_size=20), feed=patches),
    Family("qwen3.5-moe-text", "Qwen3_5MoeForCausalLM", transformers.Qwen3_5MoeTextConfig,
           {**THIRD, **EXPERTS}, unrouted=ALL),
    Family("qwen3.5-moe", "Qwen3_5MoeForConditionalGeneration", transformers.Qwen3_5MoeConfig,
           sees("qwen3_5_moe_text", **EXPERTS), unrouted={"text_config": sees(
               "qwen3_5_moe_text", **{**EXPERTS, **ALL})["text_config"]}, feed=patches),
    Family("olmo-hybrid", "OlmoHybridForCausalLM", transformers.OlmoHybridConfig,
           {**OLMO, "rope_parameters": {"rope_type": "default", "rope_theta": None}}),
    Family("lfm2", "Lfm2ForCausalLM", transformers.Lfm2Config,
           {**LIQUID, "block_multiple_of": 3, "block_ffn_dim_multiplier": 1.2}),
    Family("lfm2-moe", "Lfm2MoeForCausalLM", transformers.Lfm2MoeConfig,
           {**LIQUID, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12,
            "num_dense_layers": 1}, unrouted=ALL),
    Family("bamba", "BambaForCausalLM", transformers.BambaConfig,
           {**BAMBA, "head_dim": 8, "mlp_bias": True, "attn_layer_indices": [0]}),
    Family("falcon-h1", "FalconH1ForCausalLM", transformers.FalconH1Config,
           {**BAMBA, "mamba_d_ssm": 30, "mamba_rms_norm": True, "projectors_bias": True,
            "key_multiplier": 0.7, "ssm_multipliers": [0.6, 0.7, 0.8, 0.9, 1.1]}),
    Family("granitemoehybrid", "GraniteMoeHybridForCausalLM", transformers.GraniteMoeHybridConfig,
           {**BAMBA, "num_local_experts": 4, "num_experts_per_tok": 2,
            "shared_intermediate_size": 10, "attention_multiplier": 0.4,
            "layer_types": ["full_attention", "linear_attention"]}, unrouted=ALL),
    Family("granitemoehybrid-dense", "GraniteMoeHybridForCausalLM",
           transformers.GraniteMoeHybridConfig,
           {**BAMBA, "num_local_experts": 0, "shared_intermediate_size": 10,
            "position_embedding_type": "rope",
            "layer_types": ["full_attention", "linear_attention"]}),
    Family("nemotron-h", "NemotronHForCausalLM", transformers.NemotronHConfig,
           NEMOTRON, unrouted=ALL_GROUPS),
    Family("mamba2", "Mamba2ForCausalLM", transformers.Mamba2Config, MAMBA),
]  # fmt: skip

# Heads without a dense space: their values stand behind gates, their queries and keys behind norms.
GATED = ["mamba2", "qwen3-next", "qwen3.5-text", "qwen3.5-moe-text"]

# For `test_mutations.py`: the data file of each row, and groups that are too large.
RECURRENT_MODELS = {
    "qwen3-next": "qwen3_next",
    "qwen3.5-moe-text": "qwen3_5_moe_text",
    "mamba2": "mamba2",
    "bamba": "bamba",
    "falcon-h1": "falcon_h1",
    "granitemoehybrid": "granitemoehybrid",
    "nemotron-h": "nemotron_h",
    "olmo-hybrid": "olmo_hybrid",
    "lfm2": "lfm2",
    "lfm2-moe": "lfm2_moe",
}
# The softmax over keys does not see a key bias that no rotary turns.
RECURRENT_UNSEEN = {
    "bamba": r"k_proj\.bias\?? .*(still_rest| rest\])",
    "granitemoehybrid": r"k_proj\.bias",
}
RECURRENT_TOO_LARGE = [
    ("qwen3-next", "qk", "rotary half quarter turns"),
    ("qwen3-next", "rest", "scaled permutation"),
]
