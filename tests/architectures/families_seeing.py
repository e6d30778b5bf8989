"""More language models that see: one row each, as in `families_images.py`."""

from __future__ import annotations

from collections.abc import Callable

import torch
import transformers as t

from tests.architectures.families import VOCAB, Family
from tests.architectures.families_images import (
    COMMON,
    FINE,
    IMAGE,
    LLAVA,
    QWEN_IDS,
    QWEN_ROPE,
    QWEN_TOWER,
    SIGLIP,
    patches,
    sees,
    text,
    tiles,
    tower,
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


UNIFIED = {
    key: value for key, value in GEMMA4.items() if "per_layer" not in key
} | {"num_hidden_layers": 2, "layer_types": ["full_attention"] * 2}  # fmt: skip
WHISPER = {
    "num_mel_bins": 8, "encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 14,
    "d_model": 24, "max_source_positions": 8,
}  # fmt: skip


def frames(dtype: torch.dtype, padded: bool) -> dict[str, torch.Tensor]:
    """Patches and frames of sound as they are, without towers."""
    found, random = sees()(dtype, padded), torch.Generator().manual_seed(2)
    found["input_ids"][:, 5:7] = SOUND
    places = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1]])
    return found | {
        "pixel_values": torch.randn(3, 4, 48, generator=random).to(dtype),
        "image_position_ids": places.expand(3, 4, 2),
        "input_features": torch.randn(3, 2, 10, generator=random).to(dtype),
        "input_features_mask": torch.ones(3, 2, dtype=torch.bool),
    }


def bands(dtype: torch.dtype) -> torch.Tensor:
    """Three sounds of sixteen steps, as mel bands."""
    return torch.randn(3, 8, 16, generator=torch.Generator().manual_seed(3)).to(dtype)


def hears(dtype: torch.dtype, padded: bool) -> dict[str, torch.Tensor]:
    found = sees()(dtype, padded)
    del found["pixel_values"]
    mask = torch.ones(3, 16, dtype=torch.long)
    return found | {"input_features": bands(dtype), "feature_attention_mask": mask}


GEMMA3N = {
    **COMMON, "num_attention_heads": 8, "num_key_value_heads": 4, "num_hidden_layers": 3,
    "layer_types": [LAYERS[0], LAYERS[1], LAYERS[0]], "num_kv_shared_layers": 1,
    "sliding_window": 5, "hidden_size_per_layer_input": 6, "vocab_size_per_layer_input": VOCAB,
    "laurel_rank": 5, "altup_num_inputs": 3, "activation_sparsity_pattern": [0.5, 0.0, 0.0],
}  # fmt: skip
LLAMA4_TOWER = {
    **FINE, "intermediate_size": 128, "vision_output_dim": 18, "projector_input_dim": 18,
    "projector_output_dim": 18,
}  # fmt: skip
GLM4V = {
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 1],
                        "partial_rotary_factor": 0.75},
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": None,
}  # fmt: skip


def llama4(experts: int) -> dict[str, object]:
    return {
        **LLAVA, "vision_config": LLAMA4_TOWER,
        "text_config": {**text("llama4_text"), "num_local_experts": 4, "num_hidden_layers": 1,
                        "intermediate_size_mlp": 28, "interleave_moe_layer_step": 1,
                        "num_experts_per_tok": experts},
    }  # fmt: skip


TROCR = {
    "d_model": 24, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 40,
    "vocab_size": VOCAB, "max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "decoder_start_token_id": 1, "is_decoder": True,
    "cross_attention_hidden_size": 32,
}  # fmt: skip
MBART = {
    **{key: value for key, value in TROCR.items() if key != "cross_attention_hidden_size"},
    "encoder_layers": 3, "encoder_attention_heads": 4, "encoder_ffn_dim": 14,  # as the cache counts
    "is_encoder_decoder": False, "add_cross_attention": True,
}  # fmt: skip
DONUT = {
    "model_type": "donut-swin", "embed_dim": 16, "depths": [2, 1, 1, 1], "num_heads": [4, 4, 4, 8],
    "image_size": 16, "patch_size": 1, "window_size": 2,
}  # fmt: skip


BERT_WRITER = {
    "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
    "num_attention_heads": 4, "vocab_size": VOCAB, "max_position_embeddings": 32,
    "is_decoder": True, "add_cross_attention": True,
}  # fmt: skip
GPT2_WRITER = {
    "n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 40,
    "vocab_size": VOCAB, "n_positions": 64, "is_decoder": True, "add_cross_attention": True,
}  # fmt: skip
BERT_READER = {
    "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 3,
    "num_attention_heads": 4, "vocab_size": 67, "max_position_embeddings": 48,
}  # fmt: skip


DETR = {
    "d_model": 24, "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 4,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 20, "decoder_ffn_dim": 28, "num_queries": 7,
    "num_labels": 5,
    "backbone_config": {"model_type": "resnet", "embedding_size": 8, "depths": [1, 2, 1, 1],
                        "hidden_sizes": [12, 16, 20, 32], "out_features": ["stage4"]},
}  # fmt: skip


def scenery(dtype: torch.dtype, padded: bool) -> dict[str, torch.Tensor]:
    """Images of some patches each, after a backbone that makes one of 32 pixels."""
    random = torch.Generator().manual_seed(1)
    return {"pixel_values": torch.randn(2, 3, 64, 96, generator=random).to(dtype)}


def reads_page(dtype: torch.dtype, padded: bool) -> dict[str, torch.Tensor]:
    """Three images, and what the decoder has written of each."""
    found = sees()(dtype, False)
    return {"pixel_values": found["pixel_values"],
            "decoder_input_ids": Family("", "", dict).inputs()["input_ids"]}  # fmt: skip


def reads_states(width: int) -> Callable[[torch.dtype, bool], dict[str, torch.Tensor]]:
    """Three texts, and the states of an encoder that the decoder reads."""

    def feed(dtype: torch.dtype, padded: bool) -> dict[str, torch.Tensor]:
        random = torch.Generator().manual_seed(2)
        states = torch.randn(3, 5, width, generator=random).to(dtype)
        return {**Family("", "", dict).inputs(dtype, padded), "encoder_hidden_states": states}

    return feed


def reads_text(dtype: torch.dtype, padded: bool) -> dict[str, torch.Tensor]:
    """Three texts, and what the decoder has written of each."""
    found = Family("", "", dict).inputs(dtype, padded)
    return {**found, "decoder_input_ids": found["input_ids"][:, :7].flip(1)}


def watches(dtype: torch.dtype, padded: bool) -> dict[str, torch.Tensor]:
    """An image of four patches, and a video of one frame, whose class token counts too."""
    found, random = sees()(dtype, padded), torch.Generator().manual_seed(3)
    ids = found["input_ids"]
    ids[ids == SOUND] = SOUND - 2
    ids[:, 5:10] = SOUND
    if padded:
        found["attention_mask"][0, 8:10] = 1
    videos = torch.randn(3, 1, 3, 16, 16, generator=random).to(dtype)
    return found | {"pixel_values_videos": videos}


def two_berts(encoder: str, decoder: str, writer: dict[str, object]) -> dict[str, object]:
    """Their model types; the encoder is as wide as the decoder of BERT's kin."""
    reader = {**BERT_READER, "model_type": encoder}
    return writes(reader, {**writer, "model_type": decoder})


def writes(encoder: dict[str, object], decoder: dict[str, object]) -> dict[str, object]:
    return {"encoder": encoder, "decoder": decoder, "decoder_start_token_id": 1,
            "pad_token_id": 0, "tie_word_embeddings": False}  # fmt: skip


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
           {"text_config": {**GEMMA4, "model_type": "gemma4_text", "num_hidden_layers": 3,
                            "layer_types": [*LAYERS[:2], LAYERS[0]]},
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
    Family("gemma4-unified", "Gemma4UnifiedForConditionalGeneration", t.Gemma4UnifiedConfig,
           {"text_config": {**UNIFIED, "model_type": "gemma4_unified_text"},
            "vision_config": {"patch_size": 4, "pooling_kernel_size": 1, "mm_embed_dim": 18,
                              "output_proj_dims": 18, "mm_posemb_size": 5},
            "audio_config": {"audio_embed_dim": 10}, "image_token_id": IMAGE,
            "audio_token_id": SOUND, "tie_word_embeddings": False},
           feed=frames),
    Family("gemma4-unified-text", "Gemma4UnifiedForCausalLM", t.Gemma4UnifiedTextConfig, UNIFIED),
    Family("vipllava", "VipLlavaForConditionalGeneration", t.VipLlavaConfig,
           {**LLAVA, "text_config": text("llama"), "vision_config": tower("clip_vision_model"),
            "vision_feature_layer": [-2, -1]},
           feed=sees()),
    Family("llava-onevision", "LlavaOnevisionForConditionalGeneration", t.LlavaOnevisionConfig,
           {**LLAVA, "text_config": text("qwen2"), "vision_config": SIGLIP,
            "image_grid_pinpoints": [[16, 16]], "video_token_index": SOUND},
           feed=tiles),
    Family("aya-vision", "AyaVisionForConditionalGeneration", t.AyaVisionConfig,
           {**LLAVA, "text_config": text("cohere2"), "vision_config": SIGLIP | FINE,
            "alignment_intermediate_size": 24},
           feed=sees()),
    Family("cohere2-vision", "Cohere2VisionForConditionalGeneration", t.Cohere2VisionConfig,
           {"text_config": text("cohere2"), "vision_config": SIGLIP | FINE,
            "alignment_intermediate_size": 24, "image_token_id": IMAGE,
            "tie_word_embeddings": False},
           feed=sees()),
    Family("deepseek-vl", "DeepseekVLForConditionalGeneration", t.DeepseekVLConfig,
           {"text_config": text("llama"), "vision_config": SIGLIP, "image_token_id": IMAGE,
            "tie_word_embeddings": False},
           feed=sees()),
    Family("lighton-ocr", "LightOnOcrForConditionalGeneration", t.LightOnOcrConfig,
           {"text_config": text("qwen3"), "image_token_id": IMAGE, "tie_word_embeddings": False,
            "vision_config": tower("pixtral") | FINE | {"hidden_size": 16}},
           feed=sees(sizes=True)),
    Family("qwen2-audio", "Qwen2AudioForConditionalGeneration", t.Qwen2AudioConfig,
           {"text_config": text("qwen2"), "audio_config": WHISPER, "audio_token_index": IMAGE},
           feed=hears),
    Family("qwen2-audio-encoder", "Qwen2AudioEncoder", t.Qwen2AudioEncoderConfig, WHISPER,
           feed=lambda dtype, _: {"input_features": bands(dtype)}),
    Family("llama4-images", "Llama4ForConditionalGeneration", t.Llama4Config,
           llama4(1), unrouted=llama4(4), feed=sees()),
    Family("llama4-vision", "Llama4VisionModel", t.Llama4VisionConfig, LLAMA4_TOWER, True),
    Family("glm4v", "Glm4vForConditionalGeneration", t.Glm4vConfig,
           {"image_token_id": IMAGE, "video_token_id": 59, "image_start_token_id": 58,
            "image_end_token_id": 57, "tie_word_embeddings": False,
            "text_config": {**COMMON, **GLM4V, "model_type": "glm4v_text"},
            "vision_config": {**QWEN_TOWER, "hidden_size": 32, "out_hidden_size": 16,
                              "intermediate_size": 14, "image_size": 12, "attention_bias": True}},
           feed=patches),
    Family("glm4v-text", "Glm4vTextModel", t.Glm4vTextConfig, {**COMMON, **GLM4V}),
    Family("trocr", "VisionEncoderDecoderModel", t.VisionEncoderDecoderConfig,
           writes({**FINE, "model_type": "deit"}, {**TROCR, "model_type": "trocr"}),
           feed=reads_page),
    Family("donut", "VisionEncoderDecoderModel", t.VisionEncoderDecoderConfig,
           writes(DONUT, {**MBART, "model_type": "mbart", "d_model": 128}), feed=reads_page),
    Family("vit-mbart", "VisionEncoderDecoderModel", t.VisionEncoderDecoderConfig,
           writes({**FINE, "model_type": "vit"}, {**MBART, "model_type": "mbart"}),
           feed=reads_page),
    Family("vit-gpt2", "VisionEncoderDecoderModel", t.VisionEncoderDecoderConfig,
           writes({**FINE, "model_type": "vit"}, {**GPT2_WRITER, "model_type": "gpt2"}),
           feed=reads_page),
    Family("vit-roberta", "VisionEncoderDecoderModel", t.VisionEncoderDecoderConfig,
           writes({**FINE, "model_type": "vit"}, {**BERT_WRITER, "model_type": "roberta"}),
           feed=reads_page),
    Family("bert2bert", "EncoderDecoderModel", t.EncoderDecoderConfig,
           two_berts("bert", "bert", BERT_WRITER), feed=reads_text),
    Family("bert-generation2", "EncoderDecoderModel", t.EncoderDecoderConfig,
           two_berts("bert-generation", "bert-generation", BERT_WRITER), feed=reads_text),
    Family("roberta2gpt2", "EncoderDecoderModel", t.EncoderDecoderConfig,
           two_berts("roberta", "gpt2", GPT2_WRITER), feed=reads_text),
    Family("bert-decoder", "BertLMHeadModel", t.BertConfig, BERT_WRITER, feed=reads_states(24)),
    Family("gpt2-decoder", "GPT2LMHeadModel", t.GPT2Config, GPT2_WRITER, feed=reads_states(32)),
    Family("detr", "DetrForObjectDetection", t.DetrConfig, DETR, feed=scenery,
           fixed=("residual", "encoder_residual")),
    Family("detr-gelu", "DetrModel", t.DetrConfig, {**DETR, "activation_function": "gelu"},
           feed=scenery, fixed=("residual", "encoder_residual")),
    Family("trocr-decoder", "TrOCRForCausalLM", t.TrOCRConfig, TROCR, feed=reads_states(32)),
    Family("video-llava", "VideoLlavaForConditionalGeneration", t.VideoLlavaConfig,
           {**LLAVA, "text_config": text("llama"), "vision_config": tower("clip_vision_model"),
            "video_token_index": SOUND},
           feed=watches),
    Family("donut-encoder", "DonutSwinForImageClassification", t.DonutSwinConfig,
           {key: value for key, value in DONUT.items() if key != "model_type"}, True),
    Family("gemma3n-text", "Gemma3nForCausalLM", t.Gemma3nTextConfig, GEMMA3N),
]  # fmt: skip
