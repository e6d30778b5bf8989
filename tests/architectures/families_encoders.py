"""Encoders, encoder-decoders and vision towers: their tiny models and what they are fed."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from tests.architectures.families import VOCAB, Family

BERT = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "vocab_size": VOCAB, "max_position_embeddings": 32, "pad_token_id": 1, "bos_token_id": 0,
    "eos_token_id": 2, "num_labels": 8,
}  # fmt: skip
DISTIL = {
    "dim": 16, "n_layers": 2, "n_heads": 4, "hidden_dim": 24, "vocab_size": VOCAB,
    "max_position_embeddings": 32, "num_labels": 8,
}  # fmt: skip
MODERN = {
    **BERT, "num_hidden_layers": 3, "local_attention": 4, "global_attn_every_n_layers": 2,
    "cls_token_id": 0, "sep_token_id": 2,
}  # fmt: skip
BIASED = {"attention_bias": True, "mlp_bias": True, "norm_bias": True, "classifier_bias": True}

TEXT = {**BERT, "hidden_size": 24, "projection_dim": 8, "eos_token_id": VOCAB - 1}
VISION = {
    "hidden_size": 32, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4,
    "image_size": 16, "patch_size": 4, "projection_dim": 8, "num_labels": 8,
}  # fmt: skip
CLIP = {"text_config": TEXT, "vision_config": VISION, "projection_dim": 8, "num_labels": 8}
SIGLIP = {
    "text_config": {**TEXT, "projection_size": 32}, "vision_config": VISION, "num_labels": 8,
}  # fmt: skip


def pair(dtype: torch.dtype, padded: bool) -> dict[str, Any]:
    """Texts and images."""
    text, image = (Family("", "", dict, image=image) for image in (False, True))
    return {**text.inputs(dtype, padded), **image.inputs(dtype)}


BART = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 24, "decoder_ffn_dim": 20,
    "vocab_size": VOCAB, "max_position_embeddings": 64, "pad_token_id": 1, "bos_token_id": 0,
    "eos_token_id": 2, "decoder_start_token_id": 2, "num_labels": 8,
}  # fmt: skip
DEBERTA = {
    **BERT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "share_att_key": True,
    "norm_rel_ebd": "layer_norm", "position_buckets": 4, "position_biased_input": False,
    "type_vocab_size": 0, "pad_token_id": 0,
}  # fmt: skip
WAVE = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "vocab_size": 32, "conv_dim": (8, 6, 8, 8, 8, 8, 10), "conv_stride": (2, 1, 1, 1, 1, 1, 1),
    "conv_kernel": (3, 2, 1, 1, 1, 1, 1), "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2, "num_labels": 8, "classifier_proj_size": 6,
}  # fmt: skip
STABLE = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
SWIN = {
    "embed_dim": 16, "depths": [2, 1, 1, 1], "num_heads": [4, 4, 4, 8], "image_size": 16,
    "patch_size": 1, "window_size": 2, "mlp_ratio": 4.0, "num_labels": 8,
}  # fmt: skip
WHISPER = {
    **BART, "num_mel_bins": 8, "max_source_positions": 10, "max_target_positions": 20,
    "classifier_proj_size": 6,
}  # fmt: skip


def translation(dtype: torch.dtype, padded: bool) -> dict[str, Any]:
    """A text, and the beginning of another."""
    text = Family("", "", dict).inputs(dtype, padded)
    return {**text, "decoder_input_ids": text["input_ids"][:, :7].flip(1)}


def sentence(dtype: torch.dtype, padded: bool) -> dict[str, Any]:
    """A text that ends in the end token, which classifiers look for."""
    text = Family("", "", dict).inputs(dtype, padded)
    text["input_ids"][:, -1] = BART["eos_token_id"]
    return text


def speech(dtype: torch.dtype, padded: bool) -> dict[str, Any]:
    """Mel bands, and the beginning of a text."""
    random = torch.Generator().manual_seed(1)
    mel = torch.randn(3, 8, 20, generator=random).to(dtype)
    ids = Family("", "", dict).inputs()["input_ids"][:, :7]
    return {"input_features": mel, "decoder_input_ids": ids}


def sound(dtype: torch.dtype, padded: bool) -> dict[str, Any]:
    """Mel bands alone."""
    return {"input_features": speech(dtype, padded)["input_features"]}


def waveform(dtype: torch.dtype, padded: bool) -> dict[str, Any]:
    """Sounds as samples."""
    random = torch.Generator().manual_seed(1)
    return {"input_values": torch.randn(3, 60, generator=random).to(dtype)}


ENCODERS = [
    Family("roberta-masked", "RobertaForMaskedLM", transformers.RobertaConfig, BERT),
    Family("roberta-classifier", "RobertaForSequenceClassification", transformers.RobertaConfig,
           BERT),
    Family("roberta-bare", "RobertaModel", transformers.RobertaConfig, BERT),
    Family("xlm-roberta", "XLMRobertaForMaskedLM", transformers.XLMRobertaConfig, BERT),
    Family("camembert", "CamembertForMaskedLM", transformers.CamembertConfig, BERT),
    Family("distilbert-masked", "DistilBertForMaskedLM", transformers.DistilBertConfig, DISTIL),
    Family("distilbert-classifier", "DistilBertForSequenceClassification",
           transformers.DistilBertConfig, DISTIL),
    Family("modernbert-masked", "ModernBertForMaskedLM", transformers.ModernBertConfig, MODERN),
    Family("modernbert-classifier", "ModernBertForSequenceClassification",
           transformers.ModernBertConfig, {**MODERN, **BIASED}),
    Family("clip", "CLIPModel", transformers.CLIPConfig, CLIP, feed=pair),
    Family("clip-classifier", "CLIPForImageClassification", transformers.CLIPConfig, CLIP, True),
    Family("clip-text", "CLIPTextModelWithProjection", transformers.CLIPTextConfig, TEXT),
    Family("clip-text-bare", "CLIPTextModel", transformers.CLIPTextConfig, TEXT),
    Family("clip-vision", "CLIPVisionModelWithProjection", transformers.CLIPVisionConfig, VISION,
           True),
    Family("clip-vision-bare", "CLIPVisionModel", transformers.CLIPVisionConfig, VISION, True),
    Family("siglip", "SiglipModel", transformers.SiglipConfig, SIGLIP, feed=pair),
    Family("siglip-classifier", "SiglipForImageClassification", transformers.SiglipConfig, SIGLIP,
           True),
    Family("siglip-text", "SiglipTextModel", transformers.SiglipTextConfig, TEXT),
    Family("siglip-vision", "SiglipVisionModel", transformers.SiglipVisionConfig, VISION, True),
    Family("bart", "BartForConditionalGeneration", transformers.BartConfig, BART,
           feed=translation),
    Family("bart-classifier", "BartForSequenceClassification", transformers.BartConfig, BART,
           feed=sentence),
    Family("bart-bare", "BartModel", transformers.BartConfig, BART, feed=translation),
    Family("mbart", "MBartForConditionalGeneration", transformers.MBartConfig, BART,
           feed=translation),
    Family("pegasus", "PegasusForConditionalGeneration", transformers.PegasusConfig,
           {**BART, "activation_function": "relu"}, feed=translation),
    Family("marian", "MarianMTModel", transformers.MarianConfig, BART, feed=translation,
           fixed=("residual",)),
    Family("m2m-100", "M2M100ForConditionalGeneration", transformers.M2M100Config, BART,
           feed=translation, fixed=("residual",)),
    Family("whisper", "WhisperForConditionalGeneration", transformers.WhisperConfig, WHISPER,
           feed=speech),
    Family("whisper-classifier", "WhisperForAudioClassification", transformers.WhisperConfig,
           WHISPER, feed=sound),
    Family("electra-generator", "ElectraForMaskedLM", transformers.ElectraConfig,
           {**BERT, "embedding_size": 16}),
    Family("electra-discriminator", "ElectraForPreTraining", transformers.ElectraConfig,
           {**BERT, "embedding_size": 32}),
    Family("electra-classifier", "ElectraForSequenceClassification", transformers.ElectraConfig,
           {**BERT, "embedding_size": 16}),
    Family("electra-bare", "ElectraModel", transformers.ElectraConfig,
           {**BERT, "embedding_size": 16}),
    Family("deberta-v3", "DebertaV2ForMaskedLM", transformers.DebertaV2Config,
           {**DEBERTA, "legacy": False}),
    Family("deberta-v2", "DebertaV2ForSequenceClassification", transformers.DebertaV2Config,
           {**DEBERTA, "share_att_key": False, "conv_kernel_size": 3, "position_biased_input": True,
            "type_vocab_size": 2}),
    Family("deberta-bare", "DebertaV2Model", transformers.DebertaV2Config, DEBERTA),
    Family("deit", "DeiTForImageClassificationWithTeacher", transformers.DeiTConfig, VISION, True),
    Family("deit-classifier", "DeiTForImageClassification", transformers.DeiTConfig, VISION, True),
    Family("deit-bare", "DeiTModel", transformers.DeiTConfig, VISION, True),
    Family("albert-masked", "AlbertForMaskedLM", transformers.AlbertConfig,
           {**BERT, "embedding_size": 16}),
    Family("albert-classifier", "AlbertForSequenceClassification", transformers.AlbertConfig,
           {**BERT, "embedding_size": 16}),
    Family("beit", "BeitForImageClassification", transformers.BeitConfig,
           {**VISION, "use_relative_position_bias": True, "layer_scale_init_value": 0.5}, True),
    Family("beit-bare", "BeitModel", transformers.BeitConfig,
           {**VISION, "use_absolute_position_embeddings": True, "use_mean_pooling": False}, True),
    Family("mpnet", "MPNetForMaskedLM", transformers.MPNetConfig, BERT),
    Family("mpnet-bare", "MPNetModel", transformers.MPNetConfig, BERT),
    Family("wav2vec2", "Wav2Vec2ForCTC", transformers.Wav2Vec2Config, WAVE, feed=waveform,
           fixed=("residual",)),
    Family("wav2vec2-classifier", "Wav2Vec2ForSequenceClassification",
           transformers.Wav2Vec2Config, {**WAVE, **STABLE}, feed=waveform,
           fixed=("residual",)),
    Family("hubert", "HubertForCTC", transformers.HubertConfig, {**WAVE, **STABLE}, feed=waveform,
           fixed=("residual",)),
    Family("swin", "SwinForImageClassification", transformers.SwinConfig, SWIN, True),
    Family("swin-bare", "SwinModel", transformers.SwinConfig, SWIN, True),
    Family("whisper-bare", "WhisperModel", transformers.WhisperConfig, WHISPER, feed=speech),
]  # fmt: skip
