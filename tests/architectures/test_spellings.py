"""Folders as they are found: older and newer spellings of a model, tensors that nobody declared."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.architectures.families import all_in_float64, outputs
from tests.architectures.float8 import dequantised, family_named, save_float8
from tests.architectures.moving import scene, shapes
from tests.architectures.test_equality import error, load
from tests.architectures.twin import KEY, loaded
from unmergeable.architectures import declaration
from unmergeable.architectures.layout import Layout
from unmergeable.checkpoint.folder import open_folder
from unmergeable.errors import InputError, UnsupportedError
from unmergeable.protection.inspect import inspect
from unmergeable.protection.protect import protect, unlock


def edit(folder, change):
    """Rewrites a folder's config and weights."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    state = load_file(folder / "model.safetensors")
    config, state = change(config, state)
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    save_file(state, folder / "model.safetensors", {"format": "pt"})


def check(family, tmp_path):
    """Locks the folder, loads both in stock transformers, compares them, and unlocks."""
    protect(tmp_path / "open", tmp_path / "locked", KEY)
    config = (tmp_path / "open" / "config.json").read_bytes()
    assert (tmp_path / "locked" / "config.json").read_bytes() == config
    one, two = (
        outputs(load(family, tmp_path / n, torch.float32), family.inputs())
        for n in ("open", "locked")
    )
    assert error(one, two) <= 1e-4
    assert error(one, outputs(family.build(), family.inputs())) <= 1e-6  # still the same model
    assert unlock(tmp_path / "locked", tmp_path / "again", KEY).exact


def older(config):
    """A config in the spelling of transformers 4."""
    config = dict(config)
    config["torch_dtype"] = config.pop("dtype")
    rope = config.pop("rope_parameters")
    neox = config["model_type"] == "gpt_neox"
    config["rotary_emb_base" if neox else "rope_theta"] = rope["rope_theta"]
    if "partial_rotary_factor" in rope:
        share = rope["partial_rotary_factor"]
        config["rotary_pct" if neox else "partial_rotary_factor"] = share
    return config


@pytest.mark.parametrize(
    "name", ["llama", "qwen2", "mixtral", "phi", "phi4-mini", "gpt-neox", "stablelm", "glm4"]
)
def test_configs_of_transformers_4_are_read(name, tmp_path):
    family = family_named(name)
    family.build().save_pretrained(tmp_path / "open")
    new = Layout.of(open_folder(tmp_path / "open").config, open_folder(tmp_path / "open").shapes)
    edit(tmp_path / "open", lambda config, state: (older(config), state))
    old = Layout.of(open_folder(tmp_path / "open").config, open_folder(tmp_path / "open").shapes)
    assert "rope_parameters" not in open_folder(tmp_path / "open").config
    assert {n: s.size for n, s in old.spaces.items()} == {n: s.size for n, s in new.spaces.items()}
    check(family, tmp_path)


BUFFERS = {
    "llama": {"model.layers.{}.self_attn.rotary_emb.inv_freq": torch.rand(2)},
    "gpt2": {
        "transformer.h.{}.attn.bias": torch.ones(1, 1, 64, 64).tril(),
        "transformer.h.{}.attn.masked_bias": torch.tensor(-1e4),
    },
    "vit-gpt2": {
        "decoder.transformer.h.{}.attn.bias": torch.ones(1, 1, 64, 64).tril(),
        "decoder.transformer.h.{}.crossattention.bias": torch.ones(1, 1, 64, 64).tril(),
        "decoder.transformer.h.{}.crossattention.masked_bias": torch.tensor(-1e4),
    },
    "gpt-neox": {
        "gpt_neox.layers.{}.attention.bias": torch.ones(1, 1, 8, 8, dtype=torch.bool).tril(),
        "gpt_neox.layers.{}.attention.masked_bias": torch.tensor(-1e4),
        "gpt_neox.layers.{}.attention.rotary_emb.inv_freq": torch.rand(2),
    },
    "bert-masked": {"bert.embeddings.position_ids": torch.arange(32)[None]},
}


@pytest.mark.parametrize("name", BUFFERS)
def test_buffers_of_older_checkpoints_stay_as_they_are(name, tmp_path):
    family = family_named(name)
    family.build().save_pretrained(tmp_path / "open")
    more = {
        key.format(layer): value.clone()
        for key, value in BUFFERS[name].items()
        for layer in range(2)
    }
    edit(tmp_path / "open", lambda config, state: (config, state | more))
    check(family, tmp_path)
    moved = load_file(tmp_path / "locked" / "model.safetensors")
    assert all(torch.equal(moved[key], value) for key, value in more.items())


@pytest.mark.parametrize("name", ["llama-tied", "qwen2-tied", "gemma2"])
def test_a_tied_head_that_is_stored_moves_with_the_embeddings(name, tmp_path):
    family = family_named(name)
    family.build().save_pretrained(tmp_path / "open")

    def stored(config, state):
        assert "lm_head.weight" not in state
        return config, state | {"lm_head.weight": state["model.embed_tokens.weight"].clone()}

    edit(tmp_path / "open", stored)
    check(family, tmp_path)
    moved = load_file(tmp_path / "locked" / "model.safetensors")
    assert torch.equal(moved["lm_head.weight"], moved["model.embed_tokens.weight"])


def test_a_backbone_of_timm_stays_and_all_else_moves():
    """Its names and the shapes of a block, as in detr-resnet-50; timm itself is not needed."""
    stage = scene("detr")
    start = "model.backbone.conv_encoder.model."
    block = {
        "conv1.weight": (64, 3, 7, 7), "layer1.0.conv3.weight": (256, 64, 1, 1),
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer1.0.downsample.1.num_batches_tracked": (),
    }  # fmt: skip
    for norm, size in (("bn1", 64), ("layer1.0.bn3", 256), ("layer1.0.downsample.1", 256)):
        for name in ("weight", "bias", "running_mean", "running_var"):
            block[f"{norm}.{name}"] = (size,)
    kept = {name: one for name, one in shapes(stage.state).items() if not name.startswith(start)}
    config = {key: value for key, value in stage.saved.items() if key != "backbone_config"}
    config |= {"backbone": "resnet50", "use_timm_backbone": True}
    layout = Layout.of(config, kept | {start + name: one for name, one in block.items()})
    assert layout.movable().keys() == stage.layout.movable().keys()
    for name in block:
        used = {one for axis in layout.placements[start + name].rule.axes for one in axis.names()}
        assert not used & layout.movable().keys()


@pytest.mark.parametrize("name", ["gpt2", "bert-masked", "qwen2-tied", "phi"])
def test_names_may_lack_the_trunks_prefix(name, tmp_path):
    """As a bare model saves them; transformers puts the prefix before them again."""
    family = family_named(name)
    family.build().save_pretrained(tmp_path / "open")
    trunk = declaration.load(declaration_of(family)).tensors[0].prefix

    def bare(config, state):
        return config, {key.removeprefix(trunk): value for key, value in state.items()}

    edit(tmp_path / "open", bare)
    assert not any(key.startswith(trunk) for key in open_folder(tmp_path / "open").shapes)
    check(family, tmp_path)


def test_a_language_model_keeps_the_names_it_had_inside_one_that_sees(tmp_path):
    """Loaded from a folder of both and saved, it is spelled as there."""
    family_named("qwen3.5").build().save_pretrained(tmp_path / "both")
    text = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "both")
    text.save_pretrained(tmp_path / "open")
    folder = open_folder(tmp_path / "open")
    assert folder.config["model_type"] == "qwen3_5_text"
    assert any(key.startswith("model.language_model.layers.") for key in folder.shapes)
    protect(tmp_path / "open", tmp_path / "locked", KEY)
    assert unlock(tmp_path / "locked", tmp_path / "again", KEY).exact
    inputs = family_named("qwen3.5-text").inputs()
    one, two = (
        outputs(transformers.AutoModelForCausalLM.from_pretrained(tmp_path / n).eval(), inputs)
        for n in ("open", "locked")
    )
    assert error(one, two) <= 1e-4


def declaration_of(family):
    return family.config.model_type


SEEING = [
    "llava",
    "llava-pixtral",
    "gemma3-images",
    "mistral3",
    "internvl",
    "qwen2-vl",
    "qwen2.5-vl",
]


@pytest.mark.parametrize("name", SEEING)
def test_names_of_parts_as_they_are_in_memory_are_read(name, tmp_path):
    family = family_named(name)
    family.build().save_pretrained(tmp_path / "open", save_original_format=False)
    assert any(key.startswith("model.language_model.") for key in load_file_names(tmp_path))
    check(family, tmp_path)


@pytest.mark.parametrize("name", ["qwen2-vl", "qwen2.5-vl"])
def test_configs_with_the_language_models_keys_on_top_are_read(name, tmp_path):
    family = family_named(name)
    family.build().save_pretrained(tmp_path / "open")

    def flat(config, state):
        text = config.pop("text_config")
        text.pop("model_type")
        return {**text, **config}, state

    edit(tmp_path / "open", flat)
    assert "text_config" not in open_folder(tmp_path / "open").config
    check(family, tmp_path)


def test_a_model_that_sees_moves_in_float8(tmp_path):
    family = family_named("mistral3")
    settings = {"quant_method": "fp8", "weight_block_size": [4, 4]}
    save_float8(family, tmp_path / "open", (4, 4), settings, "weight_scale_inv")
    protect(tmp_path / "open", tmp_path / "locked", KEY)
    assert unlock(tmp_path / "locked", tmp_path / "again", KEY).exact
    one, two = (dequantised(tmp_path / n, (4, 4), "weight_scale_inv") for n in ("open", "locked"))
    with all_in_float64():
        model, inputs = family.build(torch.float64), family.inputs(torch.float64, padded=True)
        assert error(*(outputs(loaded(model, state), inputs) for state in (one, two))) < 1e-9


def load_file_names(tmp_path):
    return open_folder(tmp_path / "open").shapes


STACKED = [
    "mixtral",
    "qwen2-moe",
    "qwen3-moe",
    "olmoe",
    "deepseek-v2",
    "deepseek-v3",
    "phimoe",
    "ernie4.5-moe",
    "hunyuan-moe",
    "minimax-m2",
]


@pytest.mark.parametrize("name", STACKED)
def test_experts_stored_as_they_are_in_memory_are_read(name, tmp_path):
    family = family_named(name)
    family.build().save_pretrained(tmp_path / "open", save_original_format=False)
    stacks = [key for key in open_folder(tmp_path / "open").shapes if "experts.gate_up" in key]
    assert stacks
    layout = Layout.of(open_folder(tmp_path / "open").config, open_folder(tmp_path / "open").shapes)
    assert layout.is_stack(stacks[0])
    assert {"expert", "member"} & layout.movable().keys()
    check(family, tmp_path)


def test_stacks_stored_as_published_are_read(tmp_path):
    """Qwen3-VL's experts are published (in, out); transformers saves them (out, in)."""
    family = family_named("qwen3-vl-moe")
    family.build().save_pretrained(tmp_path / "open")

    def turned(config, state):
        stacks = {key: w.transpose(1, 2).contiguous() for key, w in state.items() if w.ndim == 3}
        assert len(stacks) == 2
        return config, state | stacks

    edit(tmp_path / "open", turned)
    check(family, tmp_path)
    layout = Layout.of_folder(open_folder(tmp_path / "locked"))
    name = "model.language_model.layers.1.mlp.experts.down_proj"
    assert str(layout.placements[name].rule.axes[2]) == "residual"


@pytest.mark.parametrize("name", ["mixtral", "olmoe", "phimoe"])
@pytest.mark.parametrize("stacked", [False, True])
def test_missing_experts_are_noticed_in_both_spellings(name, stacked, tmp_path):
    family_named(name).build().save_pretrained(tmp_path, save_original_format=not stacked)
    folder = open_folder(tmp_path)
    gone = [key for key in folder.shapes if ".1." in key and re.search(r"w2|down_proj", key)]
    shapes = {key: shape for key, shape in folder.shapes.items() if key not in gone}
    with pytest.raises(InputError, match=r"lacks the tensor '.*(w2|down_proj)"):
        Layout.of(folder.config, shapes)


# Bad input -----------------------------------------------------------------------------------


def fork(tmp_path, name, key, shape):
    """A folder of a known family with one tensor more in each layer."""
    family = family_named(name)
    family.build().save_pretrained(tmp_path / "fork")
    more = {key.format(layer): torch.randn(shape) for layer in range(2)}
    edit(tmp_path / "fork", lambda config, state: (config, state | more))
    return tmp_path / "fork"


def test_a_fork_with_an_extra_gate_is_refused_with_the_line_to_add(tmp_path, monkeypatch):
    key = "model.layers.{}.mlp.second_gate.weight"
    folder = fork(tmp_path, "llama", key, (40, 24))
    with pytest.raises(UnsupportedError) as caught:
        protect(folder, tmp_path / "out", KEY)
    text = str(caught.value)
    assert key.format(0) in text and "'llama'" in text and "llama.toml" in text
    assert "40: ffn; 24: residual" in text
    assert not (tmp_path / "out").exists()
    with pytest.raises(UnsupportedError, match="second_gate"):
        inspect(folder)
    # The line that it shows, with the axes filled in, is all that is needed.
    (name,) = re.findall(r'"(\S+)" = "\.\.\."', text)
    table = declaration._table("llama")
    table["tensors"][name] = "|ffn| residual*"
    from unmergeable.architectures import layout

    monkeypatch.setattr(layout, "declaration_for", lambda model_type: declaration.read(table))
    protect(folder, tmp_path / "out", KEY)
    moved, start = (load_file(f / "model.safetensors") for f in (tmp_path / "out", folder))
    assert not np.array_equal(moved[key.format(1)], start[key.format(1)])


def test_an_extra_tensor_of_experts_shows_both_numbers(tmp_path):
    key = "model.layers.{}.block_sparse_moe.experts.2.w4.weight"
    folder = fork(tmp_path, "mixtral", key, (20, 16))
    with pytest.raises(
        UnsupportedError, match=r'"layers\.\{layer\}\.block_sparse_moe\.experts\.\{expert\}\.w4'
    ):
        inspect(folder)


def test_an_extra_tensor_of_no_known_size_is_refused_too(tmp_path):
    folder = fork(tmp_path, "llama", "model.layers.{}.odd", (7,))
    with pytest.raises(UnsupportedError, match=r'"layers\.\{layer\}\.odd" = "\.\.\." to llama'):
        inspect(folder)
