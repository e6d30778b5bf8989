"""What data files can say besides one row per tensor."""

from __future__ import annotations

import pytest

from unmergeable.architectures.declaration import load
from unmergeable.architectures.layout import Layout
from unmergeable.architectures.sizes import evaluate
from unmergeable.errors import InputError, UnsupportedError


def axes(rules):
    return {rule.templates[0]: " ".join(map(str, rule.axes)) for rule in rules}


def test_two_towers_stand_side_by_side_under_their_prefixes():
    both = axes(load("clip").tensors)
    for stem in ("clip_text_model", "clip_vision_model"):
        tower = load(stem)
        for rule in tower.tensors:
            assert both[rule.prefix + rule.templates[0]] == " ".join(map(str, rule.axes))
    assert len(both) == sum(len(load(f"clip_{t}_model").tensors) for t in ("text", "vision"))


def test_a_class_under_another_name_has_the_same_rows():
    one = load("roberta").classes["RobertaForTokenClassification"]
    assert load("camembert").classes["CamembertForTokenClassification"] == one


def test_what_a_class_lacks_is_neither_called_for_nor_accepted():
    config = {"model_type": "clip", "architectures": ["CLIPForImageClassification"]}
    with pytest.raises(UnsupportedError, match=r"text_model\.final_layer_norm\.weight"):
        Layout.of(config, {"text_model.final_layer_norm.weight": (512,)})
    with pytest.raises(InputError, match=r"lacks the tensor 'vision_model\."):
        Layout.of(config, {"classifier.bias": (2,)})


def test_sizes_may_be_places_of_lists():
    config = {"depths": [2, 6], "width": 8}
    assert evaluate("width * depths[1]", config) == 48
    for absent in ("depths[2]", "heads[0]"):
        assert evaluate(f"{absent} or 3", config) == 3
        with pytest.raises(InputError, match="says nothing of"):
            evaluate(absent, config)
