"""A config is read as transformers reads it: under both spellings of a key."""

from __future__ import annotations

import pytest
import transformers

from tests.architectures.families import FAMILIES
from tests.architectures.moving import scene, shapes
from unmergeable.architectures.composition import composed
from unmergeable.architectures.declaration import load, stems
from unmergeable.architectures.layout import Layout
from unmergeable.architectures.reading import Config
from unmergeable.architectures.sizes import evaluate
from unmergeable.defences.mergebarrier.ffn_plan import FfnPlan
from unmergeable.errors import InputError, UnsupportedError, quoted

# What transformers reads elsewhere than in an `attribute_map`, and as what.
BESIDES = {
    "bloom": {"n_embed": "hidden_size"},
    "falcon": {"n_embed": "hidden_size"},
    "clip": {"text_config_dict": "text_config", "vision_config_dict": "vision_config"},
    **{
        stem: {"rope_scaling": "rope_parameters"}
        for stem in ("glm", "glm4", "gpt_neox", "nemotron", "phi", "phi3", "stablelm")
    },
}
TYPES = {load(stem).model_type: stem for stem in stems()}
ROWS = {family.config.model_type: family.name for family in reversed(FAMILIES)}
PAIRS = [
    (ROWS[model_type], alias, real)
    for model_type, stem in TYPES.items()
    for alias, real in load(stem).aliases.items()
    if not real.endswith("token_index")
]


@pytest.mark.parametrize("stem", stems())
def test_a_data_file_has_the_second_spellings_that_transformers_has(stem):
    known = transformers.CONFIG_MAPPING[load(stem).model_type].attribute_map
    assert load(stem).aliases == known | BESIDES.get(stem, {})


def read(name, changes, without=()):
    """The layout of a tiny model whose config was changed."""
    stage = scene(name)
    config = {key: value for key, value in stage.saved.items() if key not in without} | changes
    return Layout.of(config, shapes(stage.state))


def spaces(layout):
    return {name: (space.size, space.fixed) for name, space in layout.spaces.items()}


@pytest.mark.parametrize(("name", "alias", "real"), PAIRS, ids=lambda value: str(value))
def test_the_second_spelling_alone_is_read(name, alias, real):
    stage = scene(name)
    found = read(name, {alias: stage.saved.get(real)}, without=[real])
    assert spaces(found) == spaces(stage.layout)


def other(value):
    """Another value of the same kind."""
    if isinstance(value, dict):
        return {key: other(inner) for key, inner in value.items()}
    return [other(inner) for inner in value] if isinstance(value, list) else value * 2


@pytest.mark.parametrize(("name", "alias", "real"), PAIRS, ids=lambda value: str(value))
def test_two_unlike_spellings_are_refused_with_both_or_are_of_no_account(name, alias, real):
    stage = scene(name)
    given = stage.saved.get(real) or 6
    config = {**stage.saved, real: given, alias: other(given)}
    try:
        found = Layout.of(config, shapes(stage.state))
    except InputError as error:
        assert alias in str(error) and real in str(error)
        return
    # No space is sized by it: whatever transformers reads, the tensors' axes are the same.
    kept = Layout.of({**config, real: config[alias]}, shapes(stage.state))
    assert spaces(found) == spaces(kept) == spaces(stage.layout)


@pytest.mark.parametrize(
    ("name", "alias", "real"),
    [
        ("gpt2", "num_attention_heads", "n_head"),
        ("gpt-neo", "num_attention_heads", "num_heads"),
        ("gptj", "num_attention_heads", "n_head"),
        ("bloom", "num_attention_heads", "n_head"),
        ("distilbert", "num_attention_heads", "n_heads"),
        ("mpt", "num_attention_heads", "n_heads"),
        ("t5", "num_attention_heads", "num_heads"),
        ("bart", "num_attention_heads", "encoder_attention_heads"),
        ("whisper", "num_key_value_heads", "encoder_attention_heads"),
        ("xglm", "num_attention_heads", "attention_heads"),
    ],
)
def test_unlike_counts_of_heads_which_no_shape_shows_are_refused(name, alias, real):
    """transformers takes the second spelling, whatever the first one says."""
    row = next(row for row in FAMILIES if row.config.model_type == model_type_like(name))
    stage = scene(row.name)
    config = {**stage.saved, alias: stage.saved[real] // 2}
    assert getattr(row.config.from_dict(dict(config)), real) == config[alias]
    with pytest.raises(InputError) as caught:
        Layout.of(config, shapes(stage.state))
    assert f"{real} {config[real]}" in str(caught.value)
    assert f"{alias} {config[alias]}" in str(caught.value)


def model_type_like(name):
    return next(known for known in TYPES if known.replace("_", "") == name.replace("-", ""))


def test_like_spellings_and_nulls_are_no_contradiction():
    heads = scene("gpt2").saved["n_head"]
    for value in (heads, None):
        assert read("gpt2", {"num_attention_heads": value}).spaces["head"].size == heads
    assert read("gpt2", {"n_head": None, "num_attention_heads": 4}).spaces["head"].size == 4


def test_a_part_is_read_under_its_own_familys_spellings():
    tower = {"model_type": "gpt2", "hidden_size": 32}
    config = {**scene("llava").saved, "text_config": tower}
    _, found = composed(load("llava"), config)
    assert found["text_config"]["n_embd"] == 32
    _, found = composed(load("llava"), {**config, "text_config": {**tower, "n_embd": 48}})
    with pytest.raises(InputError, match="n_embd 48 and hidden_size 32"):
        evaluate("text_config.hidden_size", found)


def test_a_rotary_share_is_read_where_transformers_reads_it():
    """What stands under rope_scaling takes the place of rope_parameters."""
    stage = scene("phi")
    rope = stage.saved["rope_parameters"]
    share = rope["partial_rotary_factor"]
    row = next(row for row in FAMILIES if row.name == "phi")
    for key in ("rope_parameters", "rope_scaling"):
        found = read("phi", {key: rope}, without=["rope_parameters"])
        assert spaces(found) == spaces(stage.layout)
    halved = {**rope, "partial_rotary_factor": share / 2}
    config = {**stage.saved, "rope_scaling": halved}
    known = row.config.from_dict({**config, "rope_scaling": dict(halved)})
    assert known.rope_parameters["partial_rotary_factor"] == share / 2
    with pytest.raises(InputError, match=r"rope_parameters .* and rope_scaling"):
        Layout.of(config, shapes(stage.state))


def test_a_second_table_of_a_tower_may_not_contradict_the_first():
    stage = scene("clip")
    text = stage.saved["text_config"]
    for same in ({"num_attention_heads": text["num_attention_heads"]}, dict(text)):
        full = {**{k: text[k] for k in ("hidden_size", "intermediate_size", "vocab_size")}, **same}
        full |= {k: text[k] for k in ("num_hidden_layers", "max_position_embeddings")}
        found = read("clip", {"text_config_dict": full})
        assert spaces(found) == spaces(stage.layout)
    with pytest.raises(InputError, match=r"text_config .* and text_config_dict"):
        read("clip", {"text_config_dict": {**text, "num_attention_heads": 2}})


def test_settings_of_single_layers_are_refused():
    with pytest.raises(UnsupportedError, match="per_layer_config"):
        read("llama", {"per_layer_config": {"0": {"num_attention_heads": 2}}})
    assert read("llama", {"per_layer_config": {}}).movable()


def test_a_config_is_a_mapping_with_the_values_of_its_class_where_the_file_has_none():
    config = Config({"num_experts": 4, "other": None}, {"num_experts": "count"}, {"width": 8})
    assert (config["count"], config["num_experts"], config["width"]) == (4, 4, 8)
    assert set(config) == {"num_experts", "other", "width"} and len(config) == 3
    assert config["other"] is None and config.get("absent") is None
    with pytest.raises(KeyError):
        config["absent"]


@pytest.mark.parametrize(
    "value",
    [10**400, -(10**9000), "x" * 10**6, [["y" * 500] * 500] * 500, {"a\n": "b\n"}, 1e300],
    ids=["long", "longer", "text", "lists", "table", "float"],
)
def test_a_value_is_shown_on_one_short_line(value):
    assert len(quoted(value)) < 400 and "\n" not in quoted(value)


def test_a_defence_that_reads_a_config_itself_reads_it_so_too():
    config = {"model_type": "gpt2", "num_hidden_layers": 3}
    assert FfnPlan.of("gpt2", Config(config, load("gpt2").aliases)).layers == 3
