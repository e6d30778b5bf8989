"""Language models that see, and vision towers made for them: one row each, as in `families.py`."""

from __future__ import annotations

from typing import Any

import torch
import transformers as t

from tests.architectures.families import VOCAB, Family

IMAGE = 60  # the token that an embedding of the image takes the place of
COMMON = {
    "hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 4, "vocab_size": VOCAB, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False,
}  # fmt: skip
TOWER = {
    "hidden_size": 32, "intermediate_size": 14, "num_hidden_layers": 2, "num_attention_heads": 4,
    "image_size": 16, "patch_size": 8,
}  # fmt: skip
FINE = {**TOWER, "patch_size": 4}  # sixteen patches, which squares of four merge into four


def text(kind: str, **changes: Any) -> dict[str, Any]:
    return {**COMMON, "model_type": kind, **changes}


def tower(kind: str, **changes: Any) -> dict[str, Any]:
    return {**TOWER, "model_type": kind, **changes}


QWEN_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 0]}
SIGLIP = tower("siglip_vision_model", vision_use_head=False)


def sees(count: int = 4, *, side: int = 16, sizes: bool = False, nested: bool = False,
         types: str = "") -> Any:  # fmt: skip
    """Feeds an image and a text to each of three prompts: embeddings of the image come first.

    Args:
        count: of embeddings of one image.
        side: of the image, in pixels.
        sizes: whether the model asks for the images' sizes.
        nested: whether each prompt has a list of images.
        types: the name of a mask that says which tokens are an image.
    """

    def feed(dtype: torch.dtype, padded: bool) -> dict[str, Any]:
        found = Family("", "", dict).inputs(dtype, padded)
        ids = found["input_ids"].clamp_max(IMAGE - 1)
        ids[:, 1 : 1 + count] = IMAGE
        random = torch.Generator().manual_seed(2)
        pixels = torch.randn(3, 3, side, side, generator=random).to(dtype)
        found |= {"input_ids": ids, "pixel_values": pixels[:, None] if nested else pixels}
        if padded:  # on the right; on the left there is the image
            found["attention_mask"] = torch.ones_like(ids)
            found["attention_mask"][0, 8:] = 0
        if sizes:
            found["image_sizes"] = torch.tensor([[side, side]] * 3)
        if types:
            found[types] = (ids == IMAGE).long()
        return found

    return feed


def patches(dtype: torch.dtype, padded: bool) -> dict[str, Any]:
    """Qwen feeds patches in a row: 3 channels, 2 frames, 4 by 4 pixels; grids of 4 by 4."""
    found = sees(types="mm_token_type_ids")(dtype, padded)
    random = torch.Generator().manual_seed(2)
    found["pixel_values"] = torch.randn(48, 96, generator=random).to(dtype)
    found["image_grid_thw"] = torch.tensor([[1, 4, 4]] * 3)
    return found


def tiles(dtype: torch.dtype, padded: bool) -> dict[str, Any]:
    """LLaVA-NeXT sees the whole image and its tiles, each with the end of its rows."""
    found = sees(4 + 2 * 2 + 2)(dtype, padded)
    random = torch.Generator().manual_seed(2)
    found["pixel_values"] = torch.randn(3, 2, 3, 16, 16, generator=random).to(dtype)
    found["image_sizes"] = torch.tensor([[16, 16]] * 3)
    return found


QWEN_TOWER = {
    "depth": 2, "num_heads": 4, "patch_size": 4, "temporal_patch_size": 2, "spatial_merge_size": 2,
}  # fmt: skip
QWEN_IDS = {
    "image_token_id": IMAGE, "video_token_id": 59, "vision_start_token_id": 58,
    "vision_end_token_id": 57, "tie_word_embeddings": False,
}  # fmt: skip
LLAVA = {"image_token_index": IMAGE, "tie_word_embeddings": False}

IMAGES = [
    Family("llava", "LlavaForConditionalGeneration", t.LlavaConfig,
           {**LLAVA, "text_config": text("llama"), "vision_config": tower("clip_vision_model")},
           feed=sees()),
    Family("llava-layers", "LlavaForConditionalGeneration", t.LlavaConfig,
           {**LLAVA, "text_config": text("llama"), "vision_config": tower("clip_vision_model"),
            "vision_feature_layer": [-2, -1]},
           feed=sees()),
    Family("llava-qwen3", "LlavaForConditionalGeneration", t.LlavaConfig,
           {**LLAVA, "text_config": text("qwen3"), "vision_config": SIGLIP,
            "vision_feature_select_strategy": "full", "multimodal_projector_bias": False},
           feed=sees()),
    Family("llava-pixtral", "LlavaForConditionalGeneration", t.LlavaConfig,
           {**LLAVA, "text_config": text("mistral"), "vision_config": tower("pixtral"),
            "vision_feature_select_strategy": "full", "vision_feature_layer": -1},
           feed=sees(sizes=True)),
    Family("llava-next", "LlavaNextForConditionalGeneration", t.LlavaNextConfig,
           {**LLAVA, "text_config": text("mistral"), "vision_config": tower("clip_vision_model"),
            "image_grid_pinpoints": [[16, 16]]},
           feed=tiles),
    Family("paligemma", "PaliGemmaForConditionalGeneration", t.PaliGemmaConfig,
           {"text_config": text("gemma2", tie_word_embeddings=True), "vision_config": SIGLIP,
            "image_token_index": IMAGE, "projection_dim": 16},
           feed=sees(types="token_type_ids")),
    Family("gemma3-images", "Gemma3ForConditionalGeneration", t.Gemma3Config,
           {"text_config": text("gemma3_text", sliding_window=5,
                                layer_types=["sliding_attention", "full_attention"]),
            "vision_config": SIGLIP | FINE, "image_token_index": IMAGE, "mm_tokens_per_image": 4},
           feed=sees(types="token_type_ids")),
    Family("mistral3", "Mistral3ForConditionalGeneration", t.Mistral3Config,
           # No wider than the text: what reads the merged patches then sees all of them.
           {**LLAVA, "text_config": text("mistral"), "multimodal_projector_bias": True,
            "vision_config": tower("pixtral") | FINE | {"hidden_size": 16}},
           feed=sees(sizes=True)),
    Family("idefics3", "Idefics3ForConditionalGeneration", t.Idefics3Config,
           {"text_config": text("llama"), "vision_config": FINE, "image_token_id": IMAGE},
           feed=sees(nested=True)),
    Family("smolvlm", "SmolVLMForConditionalGeneration", t.SmolVLMConfig,
           {"text_config": text("llama"), "vision_config": FINE, "image_token_id": IMAGE},
           feed=sees(nested=True)),
    Family("internvl", "InternVLForConditionalGeneration", t.InternVLConfig,
           {"text_config": text("qwen2"), "vision_config": {**FINE, "attention_bias": True},
            "image_token_id": IMAGE, "tie_word_embeddings": False},
           feed=sees()),
    Family("qwen2-vl", "Qwen2VLForConditionalGeneration", t.Qwen2VLConfig,
           {**QWEN_IDS, "text_config": text("qwen2_vl_text", rope_parameters=QWEN_ROPE),
            "vision_config": {**QWEN_TOWER, "embed_dim": 32, "hidden_size": 16, "mlp_ratio": 2}},
           feed=patches),
    Family("qwen2.5-vl", "Qwen2_5_VLForConditionalGeneration", t.Qwen2_5_VLConfig,
           {**QWEN_IDS, "text_config": text("qwen2_5_vl_text", rope_parameters=QWEN_ROPE),
            "vision_config": {**QWEN_TOWER, "hidden_size": 32, "out_hidden_size": 16,
                              "intermediate_size": 14, "window_size": 8,
                              "fullatt_block_indexes": [1]}},
           feed=patches),
    Family("qwen2-vl-text", "Qwen2VLTextModel", t.Qwen2VLTextConfig,
           {**COMMON, "rope_parameters": QWEN_ROPE}),
    Family("qwen2.5-vl-text", "Qwen2_5_VLTextModel", t.Qwen2_5_VLTextConfig,
           {**COMMON, "rope_parameters": QWEN_ROPE}),
    Family("pixtral", "PixtralVisionModel", t.PixtralVisionConfig, TOWER, True),
    Family("internvl-vision", "InternVLVisionModel", t.InternVLVisionConfig,
           {**TOWER, "use_mask_token": True, "use_mean_pooling": False, "attention_bias": True},
           True),
    Family("idefics3-vision", "Idefics3VisionTransformer", t.Idefics3VisionConfig, TOWER, True),
    Family("smolvlm-vision", "SmolVLMVisionTransformer", t.SmolVLMVisionConfig, TOWER, True),
]  # fmt: skip
