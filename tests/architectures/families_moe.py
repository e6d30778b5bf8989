"""Mixtures of experts: one row per model class, as in `families.py`."""

from __future__ import annotations

import transformers

from tests.architectures.families import VOCAB, Family

COMMON = {
    "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": VOCAB, "max_position_embeddings": 64,
    "num_experts_per_tok": 2, "tie_word_embeddings": False, "pad_token_id": 0,
}  # fmt: skip
LOCAL = {**COMMON, "num_local_experts": 4}
QWEN = {
    **COMMON, "num_experts": 4, "moe_intermediate_size": 12, "mlp_only_layers": [0],
    "norm_topk_prob": True,
}  # fmt: skip
DEEPSEEK = {
    **COMMON, "num_key_value_heads": 4, "q_lora_rank": 10, "kv_lora_rank": 16,
    "qk_rope_head_dim": 4, "qk_nope_head_dim": 6, "v_head_dim": 6, "n_routed_experts": 9,
    "num_experts_per_tok": 4, "moe_intermediate_size": 12, "n_shared_experts": 2,
    "first_k_dense_replace": 1, "n_group": 3, "topk_group": 2,
}  # fmt: skip
LLAMA4 = {
    **LOCAL, "head_dim": 8, "intermediate_size_mlp": 28, "interleave_moe_layer_step": 2,
    "no_rope_layers": [1, 0],
}  # fmt: skip
ALL = {"num_experts_per_tok": 4}
ALL_GROUPS = {"num_experts_per_tok": 9, "topk_group": 3}
LIMITED = {"topk_method": "group_limited_greedy"}

MOE = [
    Family("mixtral", "MixtralForCausalLM", transformers.MixtralConfig, LOCAL, unrouted=ALL),
    Family("qwen2-moe", "Qwen2MoeForCausalLM", transformers.Qwen2MoeConfig,
           {**QWEN, "shared_expert_intermediate_size": 20}, unrouted=ALL),
    Family("qwen3-moe", "Qwen3MoeForCausalLM", transformers.Qwen3MoeConfig,
           {**QWEN, "head_dim": 8}, unrouted=ALL),
    Family("olmoe", "OlmoeForCausalLM", transformers.OlmoeConfig,
           {**COMMON, "num_experts": 4}, unrouted=ALL),
    Family("olmoe-clipped", "OlmoeForCausalLM", transformers.OlmoeConfig,
           {**COMMON, "num_experts": 4, "clip_qkv": 1.0}, unrouted=ALL),
    Family("deepseek-v2", "DeepseekV2ForCausalLM", transformers.DeepseekV2Config,
           {**DEEPSEEK, **LIMITED, "attention_bias": True}, unrouted=ALL_GROUPS),
    Family("deepseek-v2-lite", "DeepseekV2ForCausalLM", transformers.DeepseekV2Config,
           {**DEEPSEEK, **LIMITED, "q_lora_rank": None}, unrouted=ALL_GROUPS),
    Family("deepseek-v3", "DeepseekV3ForCausalLM", transformers.DeepseekV3Config,
           {**DEEPSEEK, "attention_bias": True}, unrouted=ALL_GROUPS),
    Family("deepseek-v3-half", "DeepseekV3ForCausalLM", transformers.DeepseekV3Config,
           {**DEEPSEEK, "rope_interleave": False}, unrouted=ALL_GROUPS),
    Family("llama4", "Llama4ForCausalLM", transformers.Llama4TextConfig, LLAMA4, unrouted=ALL),
    Family("gpt-oss", "GptOssForCausalLM", transformers.GptOssConfig,
           {**LOCAL, "head_dim": 8, "sliding_window": 5}, unrouted=ALL),
    Family("phimoe", "PhimoeForCausalLM", transformers.PhimoeConfig,
           {**LOCAL, "attention_bias": True, "lm_head_bias": True}),
    Family("granitemoe", "GraniteMoeForCausalLM", transformers.GraniteMoeConfig, LOCAL,
           unrouted=ALL),
]  # fmt: skip

# For `test_mutations.py`: the data file of each row, and groups that are too large.
MOE_MODELS = {
    "mixtral": "mixtral",
    "qwen2-moe": "qwen2_moe",
    "qwen3-moe": "qwen3_moe",
    "olmoe": "olmoe",
    "deepseek-v2": "deepseek_v2",
    "deepseek-v2-lite": "deepseek_v2",
    "deepseek-v3": "deepseek_v3",
    "llama4": "llama4_text",
    "gpt-oss": "gpt_oss",
    "phimoe": "phimoe",
    "granitemoe": "granitemoe",
}
MOE_TOO_LARGE = [
    ("qwen3-moe", "qk", "rotary half"),  # the norm of a head sees scales
    ("olmoe", "qk", "rotary half"),
    ("olmoe-clipped", "vo", "linear"),
    ("llama4", "qk", "rotary interleaved"),
    ("deepseek-v2", "q_latent", "scaled permutation"),
    ("deepseek-v2", "kv_latent", "scaled permutation"),
    ("deepseek-v3", "qk", "linear"),
    ("mixtral", "expert", "signed permutation"),
    ("phimoe", "residual", "signed permutation"),
]
