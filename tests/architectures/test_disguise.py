"""What is declared free is: in every family, all exact rewrites keep what a model computes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.architectures.disguise import disguised, reals
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
