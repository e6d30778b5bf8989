"""Every model class that a data file names has its tensors declared, each with its shape."""

from __future__ import annotations

import pytest
import torch
import transformers
from transformers.core_model_loading import revert_weight_conversion

from tests.architectures.families import FAMILIES
from unmergeable.architectures import declaration
from unmergeable.architectures.layout import Layout

BY_TYPE = {family.config.model_type: family for family in reversed(FAMILIES)}


@pytest.mark.parametrize("model_type", declaration.supported())
def test_every_class_is_placed(model_type):
    assert model_type in BY_TYPE, "no row of FAMILIES has this model type"
    family = BY_TYPE[model_type]
    rule = declaration.supported()[model_type]
    for name in rule.classes:
        config = family.config(**family.changes)
        if "QuestionAnswering" in name:
            config.num_labels = 2
        if name.endswith("EncoderModel"):
            config.is_encoder_decoder = False
        with torch.device("meta"):
            model = getattr(transformers, name)(config)
        state = revert_weight_conversion(model, model.state_dict())
        shapes = {key: tuple(weight.shape) for key, weight in state.items()}
        layout = Layout.of({**model.config.to_dict(), "architectures": [name]}, shapes)
        # Only a class that hands nothing of the stream to its users may move it.
        if rule.classes[name].outputs:
            assert not set(rule.classes[name].outputs) & layout.movable().keys(), name
