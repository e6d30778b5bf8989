"""Models that see or hear: one row each, as in `families.py`."""

from __future__ import annotations

from typing import Any

import torch
import transformers as t

from tests.architectures.families import Family

VIT = {
    "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "image_size": 16, "patch_size": 4, "num_labels": 5,
}  # fmt: skip
REGISTERS = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "mlp_ratio": 3,
    "image_size": 16, "patch_size": 4, "num_labels": 5, "num_register_tokens": 2,
}  # fmt: skip
ROTARY = {**VIT, "num_attention_heads": 3, "num_register_tokens": 2}
PAINTER = {
    "decoder_hidden_size": 16, "decoder_intermediate_size": 20, "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 4,
}  # fmt: skip
TEXT = {
    "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "vocab_size": 61, "max_position_embeddings": 32, "projection_size": 32,
}  # fmt: skip
TOWER = {
    "hidden_size": 32, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4,
    "patch_size": 4, "num_patches": 16,
}  # fmt: skip
WAVE = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "vocab_size": 32, "conv_dim": (8, 6, 8, 8, 8, 8, 10), "conv_stride": (2, 1, 1, 1, 1, 1, 1),
    "conv_kernel": (8, 2, 1, 1, 1, 1, 1), "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2, "num_labels": 8, "classifier_proj_size": 6,
}  # fmt: skip
THIRTEEN = {
    **WAVE, "conv_dim": (8, 6, 8, 8, 8, 8, 10, 7, 8, 9, 6, 8, 10), "squeeze_factor": 2,
    "conv_stride": (2, *[1] * 12), "conv_kernel": (8, 2, *[1] * 11), "mask_time_prob": 0.05,
}  # fmt: skip
STAGES = {
    "hidden_sizes": [10, 12, 14, 16], "depths": [2, 1, 1, 1], "num_labels": 5, "patch_size": 2,
    "image_size": 32, "layer_scale_init_value": 0.5,
}  # fmt: skip
SWIN = {
    "embed_dim": 16, "depths": [2, 1, 1, 1], "num_heads": [4, 4, 4, 4], "image_size": 32,
    "patch_size": 2, "window_size": 2, "mlp_ratio": 4.0, "num_labels": 8,
}  # fmt: skip
PAGE = {
    "vocab_size": 61, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 32, "coordinate_size": 5, "shape_size": 6,
    "max_2d_position_embeddings": 20, "input_size": 16, "patch_size": 4, "rel_pos_bins": 8,
    "rel_2d_pos_bins": 8, "num_labels": 5, "max_rel_pos": 10, "max_rel_2d_pos": 1000,
}  # fmt: skip
FORMER = {
    "hidden_sizes": [16, 18, 24, 20], "num_attention_heads": [4, 3, 4, 4], "depths": [2, 1, 1, 1],
    "sr_ratios": [4, 2, 2, 1], "mlp_ratios": [3, 3, 2, 2], "decoder_hidden_size": 6,
    "num_labels": 5, "image_size": 32, "patch_sizes": [3, 3, 3, 3], "strides": [2, 2, 2, 2],
}  # fmt: skip
CONFORMER = {
    "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "vocab_size": 32, "feature_projection_input_dim": 16, "conv_depthwise_kernel_size": 5,
    "num_labels": 8, "classifier_proj_size": 6, "left_max_position_embeddings": 4,
    "right_max_position_embeddings": 3, "add_adapter": False,
}  # fmt: skip
MOON = {
    "vocab_size": 61, "hidden_size": 48, "intermediate_size": 40, "encoder_num_hidden_layers": 2,
    "decoder_num_hidden_layers": 2, "encoder_num_attention_heads": 4,
    "decoder_num_attention_heads": 4, "max_position_embeddings": 32, "attention_bias": True,
}  # fmt: skip
BIRD = {
    "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "conv_kernel_size": 5, "subsampling_conv_channels": 6, "num_mel_bins": 16,
}  # fmt: skip
BLIP = {
    "text_config": {
        "vocab_size": 61, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 32, "bos_token_id": 1,
        "eos_token_id": 2, "sep_token_id": 2, "pad_token_id": 0,
    },
    "vision_config": {
        "hidden_size": 32, "intermediate_size": 20, "num_hidden_layers": 2,
        "num_attention_heads": 4, "image_size": 16, "patch_size": 4,
    },
}  # fmt: skip
POSE = {
    "num_labels": 5, "use_simple_decoder": True,
    "backbone_config": {
        "model_type": "vitpose_backbone", "hidden_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 4, "image_size": [32, 32], "patch_size": [8, 8], "mlp_ratio": 3,
    },
}  # fmt: skip


def drawn(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    """Random numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)


def masked(dtype: torch.dtype, padded: bool) -> dict[str, Any]:
    """Images, and for each the numbers that decide which patches are seen."""
    return {
        "pixel_values": drawn(3, 3, 16, 16, dtype=dtype),
        "noise": drawn(3, 16, dtype=dtype),
    }


def cut(dtype: torch.dtype, padded: bool) -> dict[str, Any]:
    """Images that are cut into patches, of 4 by 4 and of fewer."""
    mask = torch.ones(3, 16, dtype=torch.long)
    mask[1, 12:] = 0
    return {
        "pixel_values": drawn(3, 16, 48, dtype=dtype),
        "pixel_attention_mask": mask,
        "spatial_shapes": torch.tensor([[4, 4], [3, 4], [4, 4]]),
    }


def read_and_cut(dtype: torch.dtype, padded: bool) -> dict[str, Any]:
    """Texts, and images that are cut into patches."""
    return {**Family("", "", dict).inputs(dtype, padded), **cut(dtype, padded)}


def video(dtype: torch.dtype, padded: bool) -> dict[str, Any]:
    """Two frames, twice."""
    return {"pixel_values": drawn(3, 4, 3, 16, 16, dtype=dtype)}


def masked_video(dtype: torch.dtype, padded: bool) -> dict[str, Any]:
    """The same with half of it to be painted."""
    hidden = torch.arange(32).remainder(2).bool().expand(3, 32)
    return {**video(dtype, padded), "bool_masked_pos": hidden}


def bands(dtype: torch.dtype, padded: bool) -> dict[str, Any]:
    """Mel bands over time, time first."""
    return {"input_values": drawn(3, 24, 16, dtype=dtype)}


def waveform(dtype: torch.dtype, padded: bool) -> dict[str, Any]:
    """Sounds as samples."""
    return {"input_values": drawn(3, 60, dtype=dtype)}


def picture(dtype: torch.dtype, padded: bool) -> dict[str, Any]:
    """Images of four patches in the last of four stages."""
    return {"pixel_values": drawn(2, 3, 32, 32, dtype=dtype)}


def page(dtype: torch.dtype, padded: bool) -> dict[str, Any]:
    """Words with their places on a page, and the page."""
    found = Family("", "", dict).inputs(dtype, padded)
    random = torch.Generator().manual_seed(3)
    corners = torch.randint(0, 20, (3, 12, 2, 2), generator=random).sort(2).values
    found["bbox"] = corners.reshape(3, 12, 4)
    return {**found, "pixel_values": drawn(3, 3, 16, 16, dtype=dtype)}


def mel(dtype: torch.dtype, padded: bool) -> dict[str, Any]:
    """Mel bands over time, time first, under another name."""
    return {"input_features": drawn(3, 20, 16, dtype=dtype)}


def speech(dtype: torch.dtype, padded: bool) -> dict[str, Any]:
    """Sounds as samples, and the beginning of a text."""
    ids = Family("", "", dict).inputs()["input_ids"][:, :7]
    return {"input_values": drawn(3, 2000, dtype=dtype), "decoder_input_ids": ids}


def long_mel(dtype: torch.dtype, padded: bool) -> dict[str, Any]:
    """More of them, for an encoder that makes them eight times fewer."""
    return {"input_features": drawn(3, 80, 16, dtype=dtype)}


def caption(dtype: torch.dtype, padded: bool) -> dict[str, Any]:
    """Images, and what is written of them."""
    text = Family("", "", dict).inputs(dtype, padded)
    return {**text, "pixel_values": drawn(3, 3, 16, 16, dtype=dtype)}


SENSES = [
    Family("dinov3", "DINOv3ViTModel", t.DINOv3ViTConfig, ROTARY, True),
    Family("dinov3-gated", "DINOv3ViTModel", t.DINOv3ViTConfig,
           {**ROTARY, "use_gated_mlp": True, "key_bias": True}, True),
    Family("vit-mae", "ViTMAEForPreTraining", t.ViTMAEConfig,
           {**VIT, **PAINTER, "mask_ratio": 0.5}, feed=masked),
    Family("dinov2-registers", "Dinov2WithRegistersForImageClassification",
           t.Dinov2WithRegistersConfig, REGISTERS, True),
    Family("siglip2", "Siglip2Model", t.Siglip2Config,
           {"text_config": TEXT, "vision_config": TOWER}, feed=read_and_cut),
    Family("siglip2-text", "Siglip2TextModel", t.Siglip2TextConfig, TEXT),
    Family("siglip2-vision", "Siglip2VisionModel", t.Siglip2VisionConfig, TOWER, feed=cut),
    Family("ijepa", "IJepaForImageClassification", t.IJepaConfig, VIT, True),
    Family("vivit", "VivitForVideoClassification", t.VivitConfig,
           {**VIT, "num_frames": 4, "tubelet_size": [2, 4, 4]}, feed=video),
    Family("videomae", "VideoMAEForVideoClassification", t.VideoMAEConfig,
           {**VIT, **PAINTER, "num_frames": 4}, feed=video, fixed=("residual",)),
    Family("videomae-painter", "VideoMAEForPreTraining", t.VideoMAEConfig,
           {**VIT, **PAINTER, "num_frames": 4, "use_mean_pooling": False}, feed=masked_video,
           fixed=("residual", "decoder_residual")),
    Family("ast", "ASTForAudioClassification", t.ASTConfig,
           {**{key: value for key, value in VIT.items() if key != "image_size"},
            "max_length": 24, "num_mel_bins": 16, "time_stride": 3, "frequency_stride": 4},
           feed=bands),
    Family("data2vec-vision", "Data2VecVisionForImageClassification", t.Data2VecVisionConfig,
           {**VIT, "intermediate_size": 64, "use_relative_position_bias": True,
            "layer_scale_init_value": 0.5}, True),
    Family("wavlm", "WavLMForSequenceClassification", t.WavLMConfig,
           {**WAVE, "num_buckets": 12, "max_bucket_distance": 20}, feed=waveform,
           fixed=("residual", "head")),
    Family("unispeech", "UniSpeechModel", t.UniSpeechConfig, WAVE, feed=waveform,
           fixed=("residual",)),
    Family("unispeech-sat", "UniSpeechSatForAudioFrameClassification", t.UniSpeechSatConfig, WAVE,
           feed=waveform, fixed=("residual",)),
    Family("data2vec-audio", "Data2VecAudioForCTC", t.Data2VecAudioConfig,
           {**WAVE, "num_conv_pos_embeddings": 2, "conv_pos_kernel_size": 3}, feed=waveform,
           fixed=("residual",)),
    Family("sew", "SEWForSequenceClassification", t.SEWConfig,
           {**THIRTEEN, "feat_extract_norm": "layer", "conv_bias": True}, feed=waveform,
           fixed=("residual",)),
    Family("sew-narrow", "SEWForCTC", t.SEWConfig,
           {**THIRTEEN, "conv_dim": (*THIRTEEN["conv_dim"][:12], 32)}, feed=waveform,
           fixed=("residual",)),
    Family("convnext", "ConvNextForImageClassification", t.ConvNextConfig, STAGES, feed=picture),
    Family("convnextv2", "ConvNextV2ForImageClassification", t.ConvNextV2Config, STAGES,
           feed=picture),
    Family("dinov3-convnext", "DINOv3ConvNextModel", t.DINOv3ConvNextConfig, STAGES, feed=picture),
    Family("swinv2", "Swinv2ForImageClassification", t.Swinv2Config, SWIN, feed=picture),
    Family("layoutlmv3", "LayoutLMv3ForTokenClassification", t.LayoutLMv3Config, PAGE, feed=page),
    Family("layoutlmv3-labels", "LayoutLMv3ForTokenClassification", t.LayoutLMv3Config,
           {**PAGE, "num_labels": 12}, feed=page),
    Family("segformer", "SegformerForSemanticSegmentation", t.SegformerConfig, FORMER,
           feed=picture),
    Family("segformer-classifier", "SegformerForImageClassification", t.SegformerConfig, FORMER,
           feed=picture),
    Family("wav2vec2-bert", "Wav2Vec2BertForCTC", t.Wav2Vec2BertConfig, CONFORMER, feed=mel),
    Family("moonshine", "MoonshineForConditionalGeneration", t.MoonshineConfig, MOON, feed=speech),
    Family("parakeet", "ParakeetForCTC", t.ParakeetCTCConfig,
           {"vocab_size": 32, "pad_token_id": 0, "encoder_config": BIRD}, feed=long_mel,
           fixed=("head",)),
    Family("parakeet-encoder", "ParakeetEncoder", t.ParakeetEncoderConfig, BIRD, feed=long_mel,
           fixed=("head",)),
    Family("blip", "BlipForConditionalGeneration", t.BlipConfig, BLIP, feed=caption),
    Family("vitpose", "VitPoseForPoseEstimation", t.VitPoseConfig, POSE, feed=picture),
    Family("vitpose-classic", "VitPoseForPoseEstimation", t.VitPoseConfig,
           {**POSE, "use_simple_decoder": False}, feed=picture),
]  # fmt: skip
