"""What data files can say besides one row per tensor."""

from __future__ import annotations

import pytest
import transformers

from unmergeable.architectures.composition import composed
from unmergeable.architectures.declaration import each_name, load, plain, stems
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
    assert evaluate("depths[layer]", {**config, "layer": 1}) == 6
    for layer in (2, -1, "1", None):
        assert evaluate("depths[layer] or 3", {**config, "layer": layer}) == 3


# Layers of several kinds ----------------------------------------------------------------------

GEMMA4 = {
    "num_hidden_layers": 6, "num_kv_shared_layers": 2, "head_dim": 8, "global_head_dim": 12,
    "layer_types": ["sliding_attention", "full_attention"] * 3,
}  # fmt: skip


def heads_of(config):
    """The layer that each layer has the heads of, and how large they are."""
    whole, config = composed(load("gemma4_text"), config)
    follows = whole.spaces["keeper"].follows
    size = evaluate(whole.spaces["full_qk"].size, config)
    return [follows.position(at, config) for at in range(6)], size


def test_layers_have_the_heads_of_the_last_of_their_kind_that_keeps_any():
    assert heads_of(GEMMA4) == ([0, 1, 2, 3, 2, 3], 12)
    assert heads_of({**GEMMA4, "num_kv_shared_layers": 3})[0] == [0, 1, 2, 1, 2, 1]
    for none in ({"num_kv_shared_layers": 0}, {"num_kv_shared_layers": None}, {"layer_types": 3}):
        assert heads_of({**GEMMA4, **none})[0] == [0, 1, 2, 3, 4, 5]


def test_a_row_is_one_of_the_layers_of_its_kind():
    whole, _ = composed(load("gemma4_text"), GEMMA4)
    name = "model.layers.{}.self_attn.q_proj.weight"
    for layer in range(6):
        (row,) = (row for row in whole.tensors if row.match(name.format(layer)) is not None)
        assert ("full_qk" in str(row.axes[0])) == bool(layer % 2)


def test_settings_of_single_layers_are_those_of_their_kind_or_refused():
    full = {"head_dim": 16, "num_key_value_heads": 2}
    given = {"per_layer_config": {str(at): full for at in (1, 3, 5)}}
    assert heads_of({**GEMMA4, **given})[1] == 16
    for wrong in (
        {**given["per_layer_config"], "3": {"head_dim": 20}},
        {"1": full, "3": full},
        {str(at): {"hidden_size": 3} for at in (1, 3, 5)},
        {**given["per_layer_config"], "0": full},
        {**given["per_layer_config"], "9": full},
        [full],
        {"1": 5, "3": 5, "5": 5},
    ):
        with pytest.raises(UnsupportedError, match="per_layer_config"):
            heads_of({**GEMMA4, "per_layer_config": wrong})


def test_words_in_brackets_make_a_row_each():
    assert each_name("a.[b c].[d e]?") == ["a.b.d?", "a.b.e?", "a.c.d?", "a.c.e?"]
    assert plain("layers.{layer:full}.x") == "layers.{layer}.x"


def test_a_model_may_lack_a_part_that_is_optional():
    config = {"text_config": {"model_type": "gemma4_text", **GEMMA4}}
    for given, spaces in (({}, set()), ({"audio_config": {}}, {"audio_out"})):
        whole, _ = composed(load("gemma4"), config | given)
        assert {"audio_out", "vision_residual"} & whole.spaces.keys() == spaces
        rows = {row.templates[0] for row in whole.tensors if "embed_" in row.templates[0]}
        assert ("model.embed_audio.embedding_projection.weight" in rows) == bool(spaces)
        assert "model.embed_vision.embedding_projection.weight" not in rows


# Models made of models ------------------------------------------------------------------------

LLAVA = {
    "model_type": "llava",
    "architectures": ["LlavaForConditionalGeneration"],
    "text_config": {"model_type": "mistral"},
    "vision_config": {"model_type": "pixtral", "hidden_size": 64},
}


@pytest.mark.parametrize("stem", [stem for stem in stems() if load(stem).defaults])
def test_defaults_are_those_of_transformers(stem):
    rule = load(stem)
    config = transformers.CONFIG_MAPPING[rule.model_type]()
    assert {name: getattr(config, name) for name in rule.defaults} == rule.defaults


def test_parts_take_sizes_from_their_own_configs_and_their_defaults():
    whole, config = composed(load("llava"), LLAVA)
    assert whole.spaces["group"].within == "text_config"
    assert evaluate(whole.spaces["group"].size, config["text_config"]) == 8
    assert evaluate(whole.spaces["vision_residual"].size, config["vision_config"]) == 64
    assert evaluate(whole.spaces["projected"].size, config) == 4096
    assert LLAVA["text_config"] == {"model_type": "mistral"}


def test_a_part_nobody_declared_is_refused():
    with pytest.raises(UnsupportedError, match="vision_config of this LLaVA is of type 'eye'"):
        Layout.of({**LLAVA, "vision_config": {"model_type": "eye"}}, {})
    with pytest.raises(UnsupportedError, match=r"text_config .* of type 'llava'"):
        Layout.of({**LLAVA, "text_config": LLAVA}, {})
    with pytest.raises(UnsupportedError, match="none of them has a space 'vision_residual'"):
        Layout.of({**LLAVA, "vision_config": {"model_type": "clip_text_model"}}, {})
    with pytest.raises(UnsupportedError, match="both parts have a space 'residual'"):
        Layout.of({**LLAVA, "vision_config": {"model_type": "llama"}}, {})
    with pytest.raises(InputError, match="no 'text_config'"):
        Layout.of({**LLAVA, "text_config": None}, {})


def test_the_language_models_keys_may_stand_on_top_in_older_files():
    config = {"model_type": "qwen2_vl", "hidden_size": 48, "vision_config": {"embed_dim": 32}}
    whole, found = composed(load("qwen2_vl"), config)
    assert evaluate(whole.spaces["residual"].size, found[whole.spaces["residual"].within]) == 48
    assert evaluate(whole.spaces["vision_residual"].size, found) == 32


VIT = {"model_type": "vit", "hidden_size": 32}
WRITER = {"model_type": "mbart", "d_model": 24, "is_decoder": True, "is_encoder_decoder": False}


@pytest.mark.parametrize(
    ("decoder", "read"),
    [
        ({}, "read"),
        ({"d_model": 32}, "vision_residual"),
        # Saved with what differs from the defaults alone, a decoder may not say that it is one.
        ({"d_model": 32, "is_decoder": None, "is_encoder_decoder": None}, "vision_residual"),
        ({"is_encoder_decoder": True}, "read"),
        ({"model_type": "trocr", "cross_attention_hidden_size": 32}, "vision_residual"),
    ],
)
def test_a_part_reads_what_another_writes_straight_or_through_a_map(decoder, read):
    config = {"encoder": VIT, "decoder": WRITER | decoder}
    whole, _ = composed(load("vision_encoder_decoder"), config)
    found = axes(whole.tensors)
    keys = "decoder.layers.{decoder_layer}.encoder_attn.k_proj.weight"
    assert found["decoder.model." + keys] == f"(cross_head cross_qk*) {read}*"
    assert found["encoder.layernorm.weight"] == "|vision_residual|"
    assert ("read" in whole.spaces) == (read == "read")
    assert whole.spaces["vision_residual"].within == "encoder"
    assert whole.spaces["residual"].within == "decoder"
    assert not {"encoded", "pooled"} & (whole.spaces.keys() - load("vit").spaces.keys())
    # What mBART says of an encoder of its own is left out.
    assert not any(row.begins_with(("decoder.model.encoder.layers",)) for row in whole.tensors)


def test_spaces_have_other_names_on_axes_in_braces_and_in_norms():
    own = load("clip_vision_model").under({})
    names = {name: f"video_{name}" for name in own.spaces}
    found = own.renamed(names)
    assert found.spaces.keys() == set(names.values())
    assert {one for rule in found.spaces.values() for one in rule.per} <= found.spaces.keys()
    for row, new in zip(own.tensors, found.tensors, strict=True):
        assert new.spaces() == {names[one] for one in row.spaces()}
    for norm, rule in found.norms.items():
        assert any(map(rule.is_norm, found.tensors)), norm
    assert found.renamed({new: name for name, new in names.items()}) == own


def test_layers_of_a_kind_are_numbered_by_another_name():
    own = load("gemma4_text").under({"layer_types": ["full_attention", "sliding_attention"]})
    rows = own.renamed({"layer": "video_layer"}).tensors
    kinds = [one for row in rows for one in row.kinds if one.has(0) != one.has(1)]
    assert kinds
    assert {one.index for one in kinds} == {"video_layer"}


def test_a_part_with_its_head_has_the_rows_of_its_class():
    config = {"encoder": VIT, "decoder": {"model_type": "gpt2", "n_embd": 32}}
    whole, _ = composed(load("vision_encoder_decoder"), config)
    found = axes(whole.tensors)
    assert found["decoder.transformer.ln_f.weight"] == "|residual|"
    assert found["decoder.lm_head.weight"] == "vocab residual*"
    assert not any(name.startswith("decoder.ln_f") for name in found)
    config = {"encoder": VIT, "decoder": {"model_type": "roberta", "hidden_size": 24}}
    whole, _ = composed(load("vision_encoder_decoder"), config)
    assert not any("decoder.roberta.pooler" in name for name in axes(whole.tensors))
    assert "decoder.lm_head.decoder.weight" in whole.softmax
    with pytest.raises(UnsupportedError, match="ViT cannot be the decoder of Vision"):
        composed(load("vision_encoder_decoder"), {"encoder": VIT, "decoder": VIT})


def test_rows_of_a_kind_that_a_config_has_none_of_are_left_out():
    for config in ({}, {"add_cross_attention": False}):
        assert not any(
            "crossattention" in row.templates[0] for row in load("bert").under(config).tensors
        )
    crossed = load("bert").under({"add_cross_attention": True}).tensors
    assert sum("crossattention" in row.templates[0] for row in crossed) == 10
