"""More models of text: one row per structural variant, as in `families.py`."""

from __future__ import annotations

from typing import Any

import torch
import transformers as t

from tests.architectures.families import T5, VOCAB, Family
from tests.architectures.families_decoders import PARTIAL
from tests.architectures.families_encoders import BART, translation
from tests.architectures.families_moe import ALL, ALL_GROUPS, DEEPSEEK

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
GEMMA = {**DECODER, "hidden_size": 16, "head_dim": 6, "sliding_window": 5, "attention_bias": True}
NUMBERED = {
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 12,
    "num_shared_experts": 2,
}  # fmt: skip


def languages(dtype: torch.dtype, padded: bool) -> dict[str, Any]:
    """A text, and the language of each of its words. XLM's classifier stands on the first one."""
    text = Family("", "", dict).inputs(dtype, padded)
    if padded:
        text["attention_mask"] = text["attention_mask"].sort(descending=True).values
    return {**text, "langs": text["input_ids"] % 3}


def attentive(dtype: torch.dtype, padded: bool) -> dict[str, Any]:
    """A text whose last words see all and are seen by all, and the beginning of another."""
    text = translation(dtype, padded)
    seeing = torch.zeros_like(text["input_ids"])
    seeing[:, -2:] = 1
    return {**text, "global_attention_mask": seeing}


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
    Family("deberta-v1", "DebertaForSequenceClassification", t.DebertaConfig,
           {**ENCODER, "relative_attention": True, "pos_att_type": ["c2p", "p2c"],
            "position_biased_input": False}),
    Family("longformer", "LongformerForSequenceClassification", t.LongformerConfig,
           {**ENCODER, "attention_window": 4}),
    Family("roberta-prelayernorm", "RobertaPreLayerNormForMaskedLM", t.RobertaPreLayerNormConfig,
           ENCODER),
    Family("xlm-roberta-xl", "XLMRobertaXLForMaskedLM", t.XLMRobertaXLConfig, ENCODER),
    Family("ernie", "ErnieForMaskedLM", t.ErnieConfig, {**ENCODER, "use_task_id": True}),
    Family("data2vec-text", "Data2VecTextForMaskedLM", t.Data2VecTextConfig, ENCODER),
    Family("bert-generation", "BertGenerationDecoder", t.BertGenerationConfig,
           {**ENCODER, "is_decoder": True}),
    Family("rembert", "RemBertForMaskedLM", t.RemBertConfig,
           {**ENCODER, "input_embedding_size": 12, "output_embedding_size": 18}),
    Family("big-bird", "BigBirdForQuestionAnswering", t.BigBirdConfig,
           {**ENCODER, "block_size": 1, "num_random_blocks": 1, "sep_token_id": 2}),
    Family("big-bird-pretraining", "BigBirdForPreTraining", t.BigBirdConfig,
           {**ENCODER, "attention_type": "original_full"}),
    Family("xlm", "XLMForSequenceClassification", t.XLMConfig,
           {"emb_dim": 24, "n_layers": 2, "n_heads": 4, "vocab_size": VOCAB, "n_langs": 3,
            "max_position_embeddings": 64, "num_labels": 8, "gelu_activation": False},
           feed=languages),
    Family("biogpt", "BioGptForCausalLM", t.BioGptConfig, ENCODER),
    Family("blenderbot", "BlenderbotForConditionalGeneration", t.BlenderbotConfig, BART,
           feed=translation),
    Family("led-generation", "LEDForConditionalGeneration", t.LEDConfig,
           {**BART, "max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 64,
            "attention_window": 4}, feed=attentive),
    Family("umt5", "UMT5ForConditionalGeneration", t.UMT5Config,
           {**T5, "feed_forward_proj": "gated-gelu"}, decoder=True),
    Family("t5gemma", "T5GemmaForConditionalGeneration", t.T5GemmaConfig,
           {"encoder": GEMMA, "decoder": {**GEMMA, "hidden_size": 24, "num_attention_heads": 6},
            "vocab_size": VOCAB, "pad_token_id": 0, "decoder_start_token_id": 1}, decoder=True),
    Family("dots1", "Dots1ForCausalLM", t.Dots1Config, {**EXPERTS, "attention_bias": True},
           unrouted=ALL_GROUPS),
    Family("solar-open", "SolarOpenForCausalLM", t.SolarOpenConfig,
           {**{k: v for k, v in EXPERTS.items() if k in t.SolarOpenConfig().to_dict()},
            "head_dim": 6}, unrouted=ALL_GROUPS),
    Family("exaone-moe", "ExaoneMoeForCausalLM", t.ExaoneMoeConfig,
           {**DECODER, **NUMBERED, "num_experts": 9, "num_experts_per_tok": 4, "n_group": 3,
            "topk_group": 2, "sliding_window": 5, "sliding_window_pattern": 2},
           unrouted=ALL_GROUPS),
    Family("afmoe", "AfmoeForCausalLM", t.AfmoeConfig,
           {**DECODER, **NUMBERED, "head_dim": 6, "num_dense_layers": 1, "sliding_window": 5,
            "global_attn_every_n_layers": 2}, unrouted=ALL),
    Family("minimax-m2", "MiniMaxM2ForCausalLM", t.MiniMaxM2Config,
           {**DECODER, "num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8,
            "rope_parameters": PARTIAL["rope_parameters"]}, unrouted=ALL),
    Family("ernie4.5-moe", "Ernie4_5_MoeForCausalLM", t.Ernie4_5_MoeConfig,
           {**DECODER, "moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 12,
            "moe_num_shared_experts": 2, "use_bias": True}, unrouted={"moe_k": 4}),
    Family("hunyuan-moe", "HunYuanMoEV1ForCausalLM", t.HunYuanMoEV1Config,
           {**DECODER, "num_experts": 4, "moe_topk": 2, "head_dim": 6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
           unrouted={"moe_topk": 4}),
    Family("jais2", "Jais2ForCausalLM", t.Jais2Config, DECODER),
    Family("vaultgemma", "VaultGemmaForCausalLM", t.VaultGemmaConfig, {**DECODER, "head_dim": 6}),
    Family("flex-olmo", "FlexOlmoForCausalLM", t.FlexOlmoConfig,
           {**DECODER, "num_experts": 4, "num_experts_per_tok": 2}, unrouted=ALL),
    Family("granitemoe-shared", "GraniteMoeSharedForCausalLM", t.GraniteMoeSharedConfig,
           {**DECODER, "num_local_experts": 4, "num_experts_per_tok": 2,
            "shared_intermediate_size": 14}, unrouted=ALL),
    Family("mistral4", "Mistral4ForCausalLM", t.Mistral4Config, DEEPSEEK, unrouted=ALL_GROUPS),
    Family("youtu", "YoutuForCausalLM", t.YoutuConfig,
           {**{k: v for k, v in DEEPSEEK.items() if k in t.YoutuConfig().to_dict()},
            "pad_token_id": None, "attention_bias": True}),  # whose embedding loading would empty
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
    "deberta-v1": "deberta",
    "longformer": "longformer",
    "roberta-prelayernorm": "roberta_prelayernorm",
    "xlm-roberta-xl": "xlm_roberta_xl",
    "rembert": "rembert",
    "big-bird": "big_bird",
    "xlm": "xlm",
    "led-generation": "led",
    "umt5": "umt5",
    "t5gemma": "t5gemma",
    "dots1": "dots1",
    "afmoe": "afmoe",
    "minimax-m2": "minimax_m2",
    "ernie4.5-moe": "ernie4_5_moe",
    "hunyuan-moe": "hunyuan_v1_moe",
    "granitemoe-shared": "granitemoeshared",
}
TEXT_TOO_LARGE = [
    ("glm4-moe-normed", "qk", "rotary half quarter turns"),
    ("glm4-moe-normed", "shared", "scaled permutation"),
    ("esm", "qk", "linear"),
    ("minimax-m2", "qk", "rotary half"),
    ("minimax-m2", "rest", "scaled permutation"),
]
TEXT_UNSEEN = {
    "glm4_moe": r"k_proj\.bias\?? .*(still_rest| rest\])",  # see `mutations_decoders.py`
    "esm": r"contact_head",  # which `forward` does not ask
    "longformer": r"key(_global)?\.bias",
    "roberta_prelayernorm": r"key\.bias",
    "xlm_roberta_xl": r"key\.bias",
    "rembert": r"key\.bias",
    "big_bird": r"key\.bias",
    "led": r"k_proj\.bias|key(_global)?\.bias",
    "xlm": r"k_lin\.bias",
}
