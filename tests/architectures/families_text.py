"""More models of text: one row per structural variant, as in `families.py`."""

from __future__ import annotations

import transformers as t

from tests.architectures.families import VOCAB, Family
from tests.architectures.families_moe import ALL_GROUPS, DEEPSEEK

# Heads of eight, in two key-value groups.
DECODER = {
    "hidden_size": 32, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": VOCAB, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False,
}  # fmt: skip
ENCODER = {
    "hidden_size": 32, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4,
    "vocab_size": VOCAB, "max_position_embeddings": 64, "pad_token_id": 1, "bos_token_id": 0,
    "eos_token_id": 2, "num_labels": 8,
}  # fmt: skip
EXPERTS = {
    **DECODER, "n_routed_experts": 9, "num_experts_per_tok": 4, "moe_intermediate_size": 12,
    "n_shared_experts": 2, "first_k_dense_replace": 1, "n_group": 3, "topk_group": 2,
}  # fmt: skip

TEXT = [
    Family("glm4-moe", "Glm4MoeForCausalLM", t.Glm4MoeConfig, {**EXPERTS, "attention_bias": True},
           unrouted=ALL_GROUPS),
    Family("glm4-moe-normed", "Glm4MoeForCausalLM", t.Glm4MoeConfig,
           {**EXPERTS, "use_qk_norm": True}, unrouted=ALL_GROUPS),
    Family("glm4-moe-lite", "Glm4MoeLiteForCausalLM", t.Glm4MoeLiteConfig,
           {**DEEPSEEK, "mlp_layer_types": ["dense", "sparse"]}, unrouted=ALL_GROUPS),
    Family("eurobert", "EuroBertForSequenceClassification", t.EuroBertConfig,
           {**DECODER, "num_labels": 8}),
    Family("modernbert-decoder", "ModernBertDecoderForCausalLM", t.ModernBertDecoderConfig,
           {**ENCODER, "num_hidden_layers": 3, "local_attention": 8, "cls_token_id": 0,
            "sep_token_id": 2, "global_attn_every_n_layers": 2, "attention_bias": True,
            "mlp_bias": True, "norm_bias": True}),
    Family("gte", "GteForSequenceClassification", t.GteConfig, ENCODER),
    Family("nomic-bert", "NomicBertForMaskedLM", t.NomicBertConfig, ENCODER),
    Family("jina-v3", "JinaEmbeddingsV3ForMaskedLM", t.JinaEmbeddingsV3Config, ENCODER),
    Family("esm", "EsmForMaskedLM", t.EsmConfig,
           {**ENCODER, "position_embedding_type": "rotary", "token_dropout": True,
            "mask_token_id": 3}),
    Family("esm-1b", "EsmForMaskedLM", t.EsmConfig, {**ENCODER, "emb_layer_norm_before": True}),
]  # fmt: skip

# For `test_mutations.py`: the data file of each row, groups that are too large, and what no output
# shows.
TEXT_MODELS = {
    "glm4-moe": "glm4_moe",
    "glm4-moe-normed": "glm4_moe",
    "eurobert": "eurobert",
    "modernbert-decoder": "modernbert_decoder",
    "gte": "gte",
    "nomic-bert": "nomic_bert",
    "jina-v3": "jina_embeddings_v3",
    "esm": "esm",
}
TEXT_TOO_LARGE = [
    ("glm4-moe-normed", "qk", "rotary half quarter turns"),
    ("glm4-moe-normed", "rest", "rotary half quarter turns"),
    ("esm", "qk", "linear"),
]
TEXT_UNSEEN = {
    "glm4_moe": r"k_proj\.bias\?? .*(still_rest| rest\])",  # see `mutations_decoders.py`
    "esm": r"contact_head",  # which `forward` does not ask
}
