"""Dense decoders: one row per structural variant, as in `families.py`."""

from __future__ import annotations

import transformers as t

from tests.architectures.families import VOCAB, Family

# Four query heads in two key-value groups; heads of six, so that no two sizes are equal.
COMMON = {
    "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": VOCAB, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False,
}  # fmt: skip
WIDE = {**COMMON, "head_dim": 6}
WINDOW = {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]}
# Heads of eight, four coordinates of which turn.
PARTIAL = {**COMMON, "hidden_size": 24, "num_attention_heads": 3, "num_key_value_heads": 3}
PARTIAL["rope_parameters"] = {
    "rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5,
}  # fmt: skip
GROUPED = {**PARTIAL, "hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 2}
FALCON = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": VOCAB,
    "ffn_hidden_size": 20, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "tie_word_embeddings": False,
}  # fmt: skip
GPTJ = {
    "n_embd": 24, "n_layer": 2, "n_head": 3, "rotary_dim": 4, "n_inner": 20, "vocab_size": VOCAB,
    "n_positions": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "tie_word_embeddings": False,
}  # fmt: skip
OPT = {**COMMON, "ffn_dim": 20, "word_embed_proj_dim": 16}
BLOOM = {
    "hidden_size": 18, "n_layer": 2, "n_head": 3, "vocab_size": VOCAB, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False,
}  # fmt: skip
MPT = {
    "d_model": 16, "n_layers": 2, "n_heads": 4, "expansion_ratio": 2, "max_seq_len": 64,
    "vocab_size": VOCAB, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
NEO = {
    "hidden_size": 18, "num_layers": 2, "num_heads": 3, "intermediate_size": 20, "window_size": 5,
    "attention_types": [[["global", "local"], 1]], "vocab_size": VOCAB,
    "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "tie_word_embeddings": False,
}  # fmt: skip
BIGCODE = {
    "n_embd": 18, "n_layer": 2, "n_head": 3, "n_inner": 20, "vocab_size": VOCAB, "n_positions": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False,
}  # fmt: skip
XGLM = {
    "d_model": 18, "num_layers": 2, "attention_heads": 3, "ffn_dim": 20, "vocab_size": VOCAB,
    "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "tie_word_embeddings": False,
}  # fmt: skip

DECODERS = [
    Family("ministral", "MinistralForCausalLM", t.MinistralConfig,
           {**COMMON, "head_dim": 4, **WINDOW}),
    Family("ministral3", "Ministral3ForCausalLM", t.Ministral3Config, WIDE),
    Family("qwen3", "Qwen3ForCausalLM", t.Qwen3Config, {**WIDE, "attention_bias": True}),
    Family("gemma", "GemmaForCausalLM", t.GemmaConfig, WIDE),
    Family("gemma2", "Gemma2ForCausalLM", t.Gemma2Config,
           {**WIDE, **WINDOW, "tie_word_embeddings": True}),
    Family("gemma3", "Gemma3ForCausalLM", t.Gemma3TextConfig, {**WIDE, **WINDOW}),
    Family("phi", "PhiForCausalLM", t.PhiConfig, GROUPED),
    Family("phi-normed", "PhiForCausalLM", t.PhiConfig, {**PARTIAL, "qk_layernorm": True},
           fixed=("qk", "rest")),
    Family("phi3", "Phi3ForCausalLM", t.Phi3Config, COMMON),
    Family("phi4-mini", "Phi3ForCausalLM", t.Phi3Config, GROUPED),
    Family("olmo", "OlmoForCausalLM", t.OlmoConfig, COMMON),
    Family("olmo-clipped", "OlmoForCausalLM", t.OlmoConfig, {**COMMON, "clip_qkv": 0.7}),
    Family("olmo2", "Olmo2ForCausalLM", t.Olmo2Config, COMMON),
    Family("olmo3", "Olmo3ForCausalLM", t.Olmo3Config, {**COMMON, **WINDOW}),
    Family("stablelm", "StableLmForCausalLM", t.StableLmConfig,
           {**GROUPED, "use_qkv_bias": True}),
    Family("stablelm2", "StableLmForCausalLM", t.StableLmConfig,
           {**GROUPED, "qk_layernorm": True, "use_parallel_residual": True},
           fixed=("group", "query", "qk", "rest")),
    Family("starcoder2", "Starcoder2ForCausalLM", t.Starcoder2Config,
           {**COMMON, "sliding_window": 5}),
    Family("cohere", "CohereForCausalLM", t.CohereConfig, COMMON),
    Family("cohere-normed", "CohereForCausalLM", t.CohereConfig,
           {**COMMON, "use_qk_norm": True}, fixed=("qk",)),
    Family("cohere2", "Cohere2ForCausalLM", t.Cohere2Config, {**WIDE, **WINDOW}),
    Family("granite", "GraniteForCausalLM", t.GraniteConfig, COMMON),
    Family("glm", "GlmForCausalLM", t.GlmConfig, {**GROUPED, "head_dim": 8}),
    Family("glm4", "Glm4ForCausalLM", t.Glm4Config, {**GROUPED, "head_dim": 8}),
    Family("smollm3", "SmolLM3ForCausalLM", t.SmolLM3Config,
           {**COMMON, "no_rope_layers": [1, 0]}),
    Family("falcon", "FalconForCausalLM", t.FalconConfig,
           {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 2}),
    Family("falcon-multi-query", "FalconForCausalLM", t.FalconConfig, FALCON),
    Family("falcon-alibi", "FalconForCausalLM", t.FalconConfig,
           {**FALCON, "multi_query": False, "alibi": True, "bias": True, "parallel_attn": False},
           fixed=("group", "query")),
    Family("gptj", "GPTJForCausalLM", t.GPTJConfig, GPTJ),
    Family("gpt-neox", "GPTNeoXForCausalLM", t.GPTNeoXConfig, PARTIAL),
    Family("gpt-neox-full", "GPTNeoXForCausalLM", t.GPTNeoXConfig,
           {**COMMON, "rotary_pct": 1.0, "use_parallel_residual": False}),
    Family("opt", "OPTForCausalLM", t.OPTConfig, OPT),
    Family("opt-350m", "OPTForCausalLM", t.OPTConfig,
           {**OPT, "word_embed_proj_dim": 10, "do_layer_norm_before": False,
            "tie_word_embeddings": True}),
    Family("bloom", "BloomForCausalLM", t.BloomConfig, BLOOM, fixed=("head",)),
    Family("mpt", "MptForCausalLM", t.MptConfig, MPT, fixed=("head",)),
    Family("mpt-clipped", "MptForCausalLM", t.MptConfig,
           {**MPT, "attn_config": {"clip_qkv": 0.7}}, fixed=("head",)),
    Family("gpt-neo", "GPTNeoForCausalLM", t.GPTNeoConfig, NEO),
    Family("codegen", "CodeGenForCausalLM", t.CodeGenConfig, {**GPTJ, "n_embd": 48, "n_head": 8},
           fixed=("core", "member")),
    Family("xglm", "XGLMForCausalLM", t.XGLMConfig, XGLM, fixed=("residual",)),
    Family("nemotron", "NemotronForCausalLM", t.NemotronConfig,
           {**GROUPED, "attention_bias": True, "mlp_bias": True}),
    Family("gpt-bigcode", "GPTBigCodeForCausalLM", t.GPTBigCodeConfig, BIGCODE),
    Family("gpt-bigcode-heads", "GPTBigCodeForCausalLM", t.GPTBigCodeConfig,
           {**BIGCODE, "multi_query": False}),
    Family("seed-oss", "SeedOssForCausalLM", t.SeedOssConfig, {**WIDE, "attention_bias": True}),
    Family("ernie4.5", "Ernie4_5ForCausalLM", t.Ernie4_5Config, {**WIDE, "use_bias": True}),
    Family("helium", "HeliumForCausalLM", t.HeliumConfig, {**COMMON, "head_dim": 4}),
    Family("cwm", "CwmForCausalLM", t.CwmConfig, {**WIDE, **WINDOW}),
    Family("arcee", "ArceeForCausalLM", t.ArceeConfig, {**COMMON, "mlp_bias": True}),
    Family("hunyuan", "HunYuanDenseV1ForCausalLM", t.HunYuanDenseV1Config, WIDE),
    Family("exaone4", "Exaone4ForCausalLM", t.Exaone4Config, {**COMMON, **WINDOW}),
    Family("apertus", "ApertusForCausalLM", t.ApertusConfig, WIDE),
]  # fmt: skip
