"""What data files can say besides one row per tensor."""

from __future__ import annotations

import pytest

from unmergeable.architectures.declaration import load, read
from unmergeable.architectures.layout import Layout
from unmergeable.architectures.sizes import evaluate
from unmergeable.errors import InputError, UnsupportedError

TABLE = {
    "family": "Tiny",
    "model_type": "tiny",
    "spaces": {
        "wide": {"size": "wide", "group": "permutation"},
        "narrow": {
            "size": "narrow", "group": "permutation", "without": "up.weight", "joins": "wide",
        },
        "token": {"fixed": "token ids are the model's interface"},
    },
    "tensors": {"table": "token narrow", "up.weight?": "wide narrow*", "norm": "|wide|"},
    "classes": {"Head": {"tensors": {"head": "token narrow*"}}},
}  # fmt: skip


def axes(rules):
    return {rule.templates[0]: " ".join(map(str, rule.axes)) for rule in rules}


def test_a_space_joins_another_where_the_tensor_between_them_is_absent():
    rule = read(TABLE)
    assert rule.joined({"table": (), "up.weight": (), "norm": ()}) is rule
    joined = rule.joined({"table": (), "norm": ()})
    assert axes(joined.tensors)["table"] == "token wide"
    assert axes(joined.classes["Head"].tensors)["head"] == "token wide*"


def test_a_space_that_joins_says_when_and_which():
    spaces = {**TABLE["spaces"], "narrow": {**TABLE["spaces"]["narrow"], "joins": ""}}
    with pytest.raises(ValueError, match="without which tensor"):
        read({**TABLE, "spaces": spaces})


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
