"""What is declared free is: in every family, all exact rewrites keep what a model computes."""

from __future__ import annotations

import pytest

from tests.architectures.disguise import disguised, reals
from tests.architectures.families import FAMILIES, all_in_float64, outputs
from tests.architectures.moving import inputs_of, scene


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_disguise_changes_nothing_that_a_model_computes(family):
    stage = scene(family.name)
    state = disguised(stage.state, stage.layout, draw=reals)
    assert any(state[name] is not stage.state[name] for name in state)
    scores = bool(stage.layout.softmax)
    with all_in_float64():
        before, after = (
            outputs(model, inputs_of(family), behind_softmax=scores)
            for model in (stage.model, stage.filled(state))
        )
    assert float((before - after).abs().max() / before.abs().max()) < 1e-9


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("dinov2-classifier", "layer_scale1.lambda1"), ("dinov2-gated", "layer_scale2.lambda1"),
        ("dinov2-bare", "layer_scale2.lambda1"), ("beit", "lambda_1"), ("beit", "lambda_2"),
        ("electra-bare", "embeddings.LayerNorm.weight"),
    ],
)  # fmt: skip
def test_a_disguise_moves_layer_scales_and_the_norms_of_embeddings(name, tensor):
    stage = scene(name)
    state = disguised(stage.state, stage.layout)
    found = [key for key in state if key.endswith(tensor)]
    assert found
    assert all((state[key] != stage.state[key]).any() for key in found)
