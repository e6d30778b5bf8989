"""What is declared free is: in every family, all exact rewrites keep what a model computes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.architectures.disguise import disguised, no_epsilon, reals
from tests.architectures.families import FAMILIES, all_in_float64, outputs
from tests.architectures.moving import inputs_of, scene, shapes
from tests.architectures.twin import saved
from unmergeable.architectures.directions import directions_of
from unmergeable.architectures.layout import Layout


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_disguise_changes_nothing_that_a_model_computes(family):
    stage = scene(family.name)
    state = disguised(stage.state, stage.layout, draw=reals)
    assert any(state[name] is not stage.state[name] for name in state)
    scores = bool(stage.layout.softmax)
    with all_in_float64(), no_epsilon(stage.twin):
        before, after = (
            outputs(stage.filled(weights), inputs_of(family), behind_softmax=scores)
            for weights in (stage.state, state)
        )
    assert float((before - after).abs().max() / before.abs().max()) < 1e-9


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("dinov2-classifier", "layer_scale1.lambda1"), ("dinov2-gated", "layer_scale2.lambda1"),
        ("dinov2-bare", "layer_scale2.lambda1"), ("beit", "lambda_1"), ("beit", "lambda_2"),
        ("electra-bare", "embeddings.LayerNorm.weight"),
        ("qwen3", "q_norm.weight"), ("olmo2", "k_norm.weight"), ("gemma3-images", "k_norm.weight"),
        ("phi-normed", "q_layernorm.bias"), ("cohere-normed", "q_norm.weight"),
        ("stablelm2", "k_layernorm.norms.1.weight"), ("hunyuan", "query_layernorm.weight"),
        ("llama-tied", "model.norm.weight"), ("vit-bare", "cls_token"),
        ("swin", "downsample.reduction.weight"),
        ("gemma2", "post_feedforward_layernorm.weight"), ("llava", "linear_2.bias"),
        ("glm4", "down_proj.weight"), ("glm4", "post_self_attn_layernorm.weight"),
        ("olmo2", "o_proj.weight"), ("deepseek-v3", "q_a_proj.weight"),
        ("deepseek-v3", "kv_a_proj_with_mqa.bias"), ("bert-masked", "token_type_embeddings.weight"),
        ("bert-masked", "transform.LayerNorm.bias"), ("bert-bare", "embeddings.LayerNorm.weight"),
        ("deberta-v3", "rel_embeddings.weight"), ("deberta-v3", "encoder.LayerNorm.weight"),
        ("bloom", "word_embeddings.weight"), ("clip", "vision_model.embeddings.class_embedding"),
        ("bart", "shared.weight"), ("gemma3-images", "vision_tower.post_layernorm.bias"),
        ("wav2vec2", "weight.original1"), ("wav2vec2", "conv_layers.0.layer_norm.weight"),
        ("wav2vec2-classifier", "conv_layers.3.conv.bias"),
        ("electra-bare", "word_embeddings.weight"),
        ("bert-classifier", "attention.output.dense.weight"), ("bert-bare", "output.dense.bias"),
        ("bart", "encoder_attn.out_proj.weight"), ("wav2vec2", "output_dense.weight"),
        ("opt-350m", "fc2.weight"), ("dinov2-bare", "mlp.fc2.bias"),
        ("beit", "attention.output.dense.weight"),
        ("convnext", "dwconv.weight"), ("convnext", "dwconv.bias"),
        ("convnextv2", "pwconv2.weight"), ("dinov3-convnext", "depthwise_conv.weight"),
        ("qwen3-next", "conv1d.weight"), ("qwen3-next", "linear_attn.norm.weight"),
        ("qwen3.5-text", "in_proj_qkv.weight"), ("qwen3.5-text", "q_norm.weight"),
        ("mamba2", "mixer.norm.weight"), ("mamba2", "in_proj.bias"),
        ("olmo-hybrid", "v_conv1d.weight"),
    ],
)  # fmt: skip
def test_a_disguise_moves_layer_scales_and_norms_that_stand_apart(name, tensor):
    stage = scene(name)
    state = disguised(stage.state, stage.layout)
    found = [key for key in state if key.endswith(tensor)]
    assert found
    assert all((state[key] != stage.state[key]).any() for key in found)


@pytest.mark.parametrize(
    ("name", "changes", "tensor"),
    [
        ("deepseek-v3", {}, "mlp.gate.weight"),  # sigmoids
        ("llama4", {}, "router.weight"),  # sigmoids
        ("phimoe", {}, "router.weight"),  # scores against their own size
        ("gemma2", {"tie_word_embeddings": False}, "lm_head.weight"),  # capped
        ("bert-answers", {}, "qa_outputs.weight"),  # a softmax over positions
    ],
)
def test_a_softmax_that_is_not_alone_sees_what_all_rows_have_in_common(name, changes, tensor):
    family = next(family for family in FAMILIES if family.name == name)
    family = replace(family, changes={**family.changes, **changes})
    with all_in_float64():
        model = family.build(torch.float64)
        config, state = saved(model)
        found = directions_of(Layout.of(config, shapes(state)), shapes(state))
        assert not [one for one in found if one.rows and one.name.endswith(tensor)]
        before = outputs(model, inputs_of(family), behind_softmax=True)
        weights = [weight for key, weight in model.named_parameters() if key.endswith(tensor)]
        assert weights
        with torch.no_grad():
            for weight in weights:
                weight += torch.randn(weight.shape[1], dtype=torch.float64)
        after = outputs(model, inputs_of(family), behind_softmax=True)
    assert float((before - after).abs().max() / before.abs().max()) > 1e-3
