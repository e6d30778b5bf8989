"""The locked model computes what the open one computes: each family, each kind, each dtype."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.architectures.families import FAMILIES, Family, all_in_float64, outputs
from tests.architectures.twin import bfloat16_cost, lock_of, prompt_of, settings_of
from unmergeable.keys import Key
from unmergeable.protection import protect, unlock

KEY = Key(bytes(range(32)))
KINDS = ["lossless", "general"]

families = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
kinds = pytest.mark.parametrize("kind", KINDS)


def locked(family: Family, dtype: torch.dtype, kind: str, folder) -> tuple[object, object]:
    """The open model and its locked version, both loaded from disk by stock transformers."""
    family.build(dtype).save_pretrained(folder / "open")
    protect(folder / "open", folder / "locked", KEY, settings={"kind": kind})
    return load(family, folder / "open", dtype), load(family, folder / "locked", dtype)


def load(family: Family, folder, dtype: torch.dtype):
    cls = getattr(transformers, family.model)
    how = {"attn_implementation": "eager", "experts_implementation": "eager"}
    return cls.from_pretrained(folder, dtype=dtype, **how).eval()


def error(one: torch.Tensor, two: torch.Tensor) -> float:
    return float((one - two).abs().max() / one.abs().max())


@families
@kinds
def test_float64_outputs_agree_to_the_last_digits(family, kind, tmp_path):
    with all_in_float64():
        model, twin = locked(family, torch.float64, kind, tmp_path)
        for padded in (False, True):
            inputs = family.inputs(torch.float64, padded)
            assert error(outputs(model, inputs), outputs(twin, inputs)) <= 1e-9


@families
@kinds
def test_float32_outputs_agree(family, kind, tmp_path):
    model, twin = locked(family, torch.float32, kind, tmp_path)
    for padded in (False, True):
        inputs = family.inputs(torch.float32, padded)
        assert error(outputs(model, inputs), outputs(twin, inputs)) <= 1e-4


@families
@kinds
def test_bfloat16_costs_no_more_than_bfloat16_costs_anyway(family, kind):
    """One model of this size is a small sample: where it says no, six decide."""
    family, draw = replace(family, changes=family.changes | family.unrouted), lock_of(kind)
    assert bfloat16_cost(family, draw, seeds=1) <= 1.5 or bfloat16_cost(family, draw) <= 1.5


@pytest.mark.parametrize(
    "family", [f for f in FAMILIES if f.generates], ids=lambda family: family.name
)
@kinds
def test_cached_generation_gives_the_same_tokens(family, kind, tmp_path):
    model, twin = locked(family, torch.float32, kind, tmp_path)
    prompt = prompt_of(family)
    settings = settings_of(prompt)
    tokens = model.generate(**prompt, **settings, use_cache=True)
    assert torch.equal(tokens, twin.generate(**prompt, **settings, use_cache=True))
    assert torch.equal(tokens, twin.generate(**prompt, **settings, use_cache=False))


def test_the_oldest_names_of_gains_and_biases_are_read(tmp_path):
    family = next(family for family in FAMILIES if family.name == "bert-masked")
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
    twin = load(family, tmp_path / "locked", torch.float32)
    inputs = family.inputs()
    assert error(outputs(family.build(), inputs), outputs(twin, inputs)) <= 1e-4


@kinds
def test_whisper_writes_the_same_tokens_with_its_cache(kind, tmp_path):
    """Its own `generate` wants a tokenizer's settings; this is what it does, greedily."""
    family = next(family for family in FAMILIES if family.name == "whisper")
    model, twin = locked(family, torch.float32, kind, tmp_path)
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
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_unlocking_gives_the_same_bits(family, dtype, tmp_path):
    family.build(dtype).save_pretrained(tmp_path / "open")
    protect(tmp_path / "open", tmp_path / "locked", KEY)
    report = unlock(tmp_path / "locked", tmp_path / "again", KEY)
    assert report.exact
    files = [tmp_path / name / "model.safetensors" for name in ("open", "locked", "again")]
    original, moved, again = (file.read_bytes() for file in files)
    assert again == original != moved


@families
def test_every_space_that_moves_moves_something(family, tmp_path):
    """On its own; that the function stays then is shown in `test_tightness.py`."""
    from unmergeable.inspection import inspect

    family.build().save_pretrained(tmp_path / "open")
    spaces = inspect(tmp_path / "open").spaces
    names = [space.name for space in spaces if space.group and space.bits]
    assert {space.name for space in spaces if not space.group} >= set(family.fixed)
    assert {"qk", "vo"} - {*family.fixed} <= {name[-2:] for name in names}
    moves = any("residual" in name for name in names)
    assert moves != (family.bare or "residual" in family.fixed) or family.name == "swin-bare"
    original = (tmp_path / "open" / "model.safetensors").read_bytes()
    for name in names:
        out = tmp_path / f"only-{name}"
        protect(tmp_path / "open", out, KEY, settings={"spaces": name})
        assert (out / "model.safetensors").read_bytes() != original, name


@pytest.mark.parametrize("spelling", ["on disk", "in memory"])
@pytest.mark.parametrize("name", ["vit-classifier", "dinov2-classifier", "dinov2-gated"])
def test_both_spellings_of_vision_checkpoints_are_read(name, spelling, tmp_path):
    family = next(family for family in FAMILIES if family.name == name)
    model = family.build()
    model.save_pretrained(tmp_path / "open", save_original_format=spelling == "on disk")
    protect(tmp_path / "open", tmp_path / "locked", KEY)
    twin = load(family, tmp_path / "locked", torch.float32)
    inputs = family.inputs()
    assert error(outputs(model, inputs), outputs(twin, inputs)) <= 1e-4
