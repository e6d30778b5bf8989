"""Norms that are declared free are: a gain may move into what reads it, in every family."""

from __future__ import annotations

import pytest

from tests.architectures.disguise import disguised, no_epsilon, reals
from tests.architectures.families import FAMILIES, all_in_float64, outputs
from tests.architectures.moving import inputs_of, scene

# Their norms have no gains, and nothing has biases.
NONE = {"olmo", "olmo-clipped"}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_disguise_changes_nothing_that_a_model_computes(family):
    stage = scene(family.name)
    state = disguised(stage.state, stage.layout, draw=reals)
    moved = any(state[name] is not stage.state[name] for name in state)
    assert moved is (family.name not in NONE)
    with all_in_float64(), no_epsilon(stage.twin):
        before, after = (
            outputs(stage.filled(weights), inputs_of(family)) for weights in (stage.state, state)
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
    ],
)  # fmt: skip
def test_a_disguise_moves_layer_scales_and_norms_that_stand_apart(name, tensor):
    stage = scene(name)
    state = disguised(stage.state, stage.layout)
    found = [key for key in state if key.endswith(tensor)]
    assert found
    assert all((state[key] != stage.state[key]).any() for key in found)
