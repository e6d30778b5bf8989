"""More language models that see: one row each, as in `families_images.py`."""

from __future__ import annotations

import torch
import transformers as t

from tests.architectures.families import VOCAB, Family
from tests.architectures.families_images import (
    COMMON,
    FINE,
    IMAGE,
    QWEN_IDS,
    QWEN_ROPE,
    QWEN_TOWER,
    patches,
    sees,
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

GEMMA4_TOWER = {
    **FINE, "num_key_value_heads": 4, "head_dim": 8, "position_embedding_size": 9,
    "pooling_kernel_size": 2,
}  # fmt: skip
GEMMA4_AUDIO = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "output_proj_dims": 18,
    "subsampling_conv_channels": [16, 10], "attention_chunk_size": 4, "attention_context_left": 3,
}  # fmt: skip
SOUND = 59  # the token that an embedding of a sound takes the place of


def soft_patches(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Gemma 4 feeds three images of four by four patches, and where each patch stands."""
    random = torch.Generator().manual_seed(2)
    places = torch.stack(torch.meshgrid(torch.arange(4), torch.arange(4), indexing="xy"), -1)
    return {
        "pixel_values": torch.randn(3, 16, 48, generator=random).to(dtype),
        "pixel_position_ids": places.reshape(1, 16, 2).expand(3, 16, 2),
    }


def spectra(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Three sounds of eight steps, of sixteen frequencies each; two are left of the steps."""
    random = torch.Generator().manual_seed(3)
    return {
        "input_features": torch.randn(3, 8, 16, generator=random).to(dtype),
        "input_features_mask": torch.ones(3, 8, dtype=torch.bool),
    }


def sees_and_hears(dtype: torch.dtype, padded: bool) -> dict[str, torch.Tensor]:
    found = sees()(dtype, padded)
    found["input_ids"][:, 5:7] = SOUND
    image = soft_patches(dtype)
    positions = image.pop("pixel_position_ids")
    return found | image | {"image_position_ids": positions} | spectra(dtype)


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
    Family("gemma4", "Gemma4ForConditionalGeneration", t.Gemma4Config,
           {"text_config": {**GEMMA4, "model_type": "gemma4_text", "num_hidden_layers": 2,
                            "layer_types": ["full_attention"] * 2},
            "vision_config": {**GEMMA4_TOWER, "model_type": "gemma4_vision"},
            "audio_config": {**GEMMA4_AUDIO, "model_type": "gemma4_audio"},
            "image_token_id": IMAGE, "audio_token_id": SOUND, "tie_word_embeddings": False},
           feed=sees_and_hears),
    Family("gemma4-vision", "Gemma4VisionModel", t.Gemma4VisionConfig,
           {**GEMMA4_TOWER, "standardize": True}, feed=lambda dtype, _: soft_patches(dtype)),
    Family("gemma4-clipped", "Gemma4VisionModel", t.Gemma4VisionConfig,
           {**GEMMA4_TOWER, "use_clipped_linears": True}, fixed=("vision_qk",),
           feed=lambda dtype, _: soft_patches(dtype)),
    Family("gemma4-audio", "Gemma4AudioModel", t.Gemma4AudioConfig, GEMMA4_AUDIO,
           feed=lambda dtype, _: spectra(dtype)),
]  # fmt: skip
