"""The locked model computes what the open one computes: each family, each kind, each dtype."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.architectures.families import FAMILIES, ONE_OF_EACH, all_in_float64, outputs
from tests.architectures.moving import scene
from tests.architectures.stored import KEY, Stored, load, stored
from tests.architectures.twin import bfloat16_cost, generate, lock_of, rounding_cost
from unmergeable.defences import lock
from unmergeable.protection.protect import protect, unlock

KINDS = ["lossless", "general"]
# Bare models that hand out the stream of their last stage alone.
STAGED = ("swin-bare", "dinov3-convnext", "gemma4-audio", "llama4-vision")

families = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
# How a smaller dtype rounds is no matter of heads and labels.
one_of_each = pytest.mark.parametrize("family", ONE_OF_EACH, ids=lambda family: family.name)
kinds = pytest.mark.parametrize("kind", KINDS)


def named(name):
    return next(family for family in FAMILIES if family.name == name)


def error(one: torch.Tensor, two: torch.Tensor) -> float:
    return float((one - two).abs().max() / one.abs().max())


@kinds
@families
def test_float64_outputs_agree_to_the_last_digits(family, kind):
    """All spaces together; through files, see the next test."""
    stage = scene(family.name)
    settings = lock.LockSettings.resolve({"kind": kind, "scales": True}, stage.layout)
    with all_in_float64():
        twin = stage.filled(stage.moved(lock.gauge(KEY, settings)))
        for padded in (False, True):
            inputs = family.inputs(torch.float64, padded)
            assert error(outputs(stage.model, inputs), outputs(twin, inputs)) <= 1e-9


@kinds
@pytest.mark.parametrize("name", ["llama", "mixtral", "gpt2", "t5", "vit-classifier"])
def test_float64_outputs_agree_through_files(name, kind):
    with all_in_float64():
        both = Stored(named(name), torch.float64)
        inputs = both.family.inputs(torch.float64, padded=True)
        twin = load(both.family, both.locked_folder(kind), torch.float64)
        assert error(outputs(both.model, inputs), outputs(twin, inputs)) <= 1e-9


@kinds
@families
def test_float32_outputs_agree(family, kind):
    both = stored(family)
    for padded in (False, True):
        inputs = family.inputs(torch.float32, padded)
        assert error(outputs(both.model, inputs), outputs(both.locked(kind), inputs)) <= 1e-4


@kinds
@one_of_each
def test_bfloat16_costs_no_more_than_bfloat16_costs_anyway(family, kind):
    """One model of this size is a small sample: where it says no, six decide."""
    family = family.routerless
    both = stored(family, torch.bfloat16)
    cost = rounding_cost(family, both.model, both.locked(kind), both.wide)
    assert cost <= 1.5 or bfloat16_cost(family, lock_of(kind)) <= 1.5


@pytest.mark.parametrize(
    "family", [f for f in FAMILIES if f.generates], ids=lambda family: family.name
)
def test_cached_generation_gives_the_same_tokens(family):
    """What goes into the cache moves most under the general lock."""
    both = stored(family)
    assert both.written == generate(both.locked("general"), family, True)


@kinds
@pytest.mark.parametrize("name", ["llama", "gpt2", "mixtral", "t5", "bart", "deepseek-v3"])
def test_generation_gives_the_same_tokens_with_the_cache_and_without(name, kind):
    family = named(name)
    both = stored(family)
    twin = both.locked(kind)
    assert both.written == generate(twin, family, True) == generate(twin, family, False)


def test_the_oldest_names_of_gains_and_biases_are_read(tmp_path):
    family = named("bert-masked")
    family.build().save_pretrained(tmp_path / "open")
    path = tmp_path / "open" / "model.safetensors"
    state = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): weight
        for name, weight in load_file(path).items()
    }
    save_file(state, path, {"format": "pt"})
    protect(tmp_path / "open", tmp_path / "locked", KEY)
    twin = load(family, tmp_path / "locked")
    inputs = family.inputs()
    assert error(outputs(family.build(), inputs), outputs(twin, inputs)) <= 1e-4


@kinds
@pytest.mark.parametrize("name", [
    "whisper", "trocr", "donut", "vit-mbart", "vit-gpt2", "vit-roberta",
])  # fmt: skip
def test_a_decoder_behind_an_encoder_writes_the_same_tokens_with_its_cache(name, kind):
    """Its own `generate` wants a tokenizer's settings; this is what it does, greedily."""
    family = named(name)
    model, twin = stored(family).model, stored(family).locked(kind)
    plain = written(model, family, use_cache=False)
    assert plain.unique().numel() > 3
    for one in (model, twin):
        assert torch.equal(written(one, family, use_cache=True), plain)


def written(model, family, use_cache):
    inputs, cache = family.inputs(), None
    ids = inputs.pop("decoder_input_ids")
    for _ in range(10):
        fed = ids[:, -1:] if cache else ids
        with torch.no_grad():
            out = model(**inputs, decoder_input_ids=fed, past_key_values=cache, use_cache=use_cache)
        cache = out.past_key_values if use_cache else None
        ids = torch.cat([ids, out.logits[:, -1:].argmax(-1)], 1)
    return ids[:, 7:]


@families
def test_unlocking_gives_the_same_bits(family, tmp_path):
    """In bfloat16, whose exponents leave the lock's powers of two as little room as float32's."""
    both = stored(family.routerless, torch.bfloat16)
    locked = both.locked_folder("lossless")
    report = unlock(locked, tmp_path / "again", KEY)
    assert report.exact
    folders = (both.folder, locked, tmp_path / "again")
    original, moved, again = ((one / "model.safetensors").read_bytes() for one in folders)
    assert again == original != moved


@families
def test_every_space_that_moves_moves_something(family):
    """On its own; that the function stays then is shown in `test_tightness.py`."""
    from unmergeable.protection.inspect import inspect

    spaces = inspect(stored(family.routerless, torch.bfloat16).folder).spaces
    names = [space.name for space in spaces if space.group and space.bits]
    assert {space.name for space in spaces if not space.group} >= set(family.fixed)
    heads = {"qk", "vo"} & {space.name[-2:] for space in spaces}
    assert heads - {name[-2:] for name in family.fixed} <= {name[-2:] for name in names}
    moves = any("residual" in name for name in names)
    assert moves != (family.bare or "residual" in family.fixed) or family.name in STAGED
    layout = scene(family.name).layout
    for name in names:
        settings = lock.LockSettings.resolve({"spaces": name, "scales": True}, layout)
        gauge = lock.gauge(KEY, settings)
        assert any(
            layout.source(one, gauge) != one or not layout.tensor_map(one, gauge).is_identity
            for one in layout.placements
        ), name


def test_a_space_moves_alone_through_files(tmp_path):
    both = stored(named("llama"))
    original = (both.folder / "model.safetensors").read_bytes()
    for name in ("residual", "ffn"):
        protect(both.folder, tmp_path / name, KEY, settings={"spaces": name})
        assert (tmp_path / name / "model.safetensors").read_bytes() != original, name


@pytest.mark.parametrize("spelling", ["on disk", "in memory"])
@pytest.mark.parametrize("name", ["vit-classifier", "dinov2-classifier", "dinov2-gated"])
def test_both_spellings_of_vision_checkpoints_are_read(name, spelling, tmp_path):
    family = named(name)
    model = family.build()
    model.save_pretrained(tmp_path / "open", save_original_format=spelling == "on disk")
    protect(tmp_path / "open", tmp_path / "locked", KEY)
    twin = load(family, tmp_path / "locked")
    inputs = family.inputs()
    assert error(outputs(model, inputs), outputs(twin, inputs)) <= 1e-4
