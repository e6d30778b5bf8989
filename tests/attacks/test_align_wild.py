"""Numbers that are exact and beyond all measure do not end an alignment, and do not hide a lock."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.architectures.families import FAMILIES
from unmergeable.attacks.align import align
from unmergeable.keys.key import Key
from unmergeable.protection.protect import protect

KEY = Key(bytes(range(32)))
NAME = "model.safetensors"
TAU = 0.02
BIG = 2.0**100
BY_NAME = {family.name: family for family in FAMILIES}


def scaled(up, down, factor=BIG):
    """One side of a space times a power of two, the other over it."""

    def change(state):
        for name in state:
            if name.endswith((f"{up}.weight", f"{up}.bias")):
                state[name] = state[name] / factor
            if name.endswith(f"{down}.weight"):
                state[name] = state[name] * factor

    return change


def neurons(state):
    """Each neuron by a power of two of its own."""
    random = np.random.default_rng(0)
    for layer in range(2):
        up, down = (f"model.layers.{layer}.mlp.{side}_proj.weight" for side in ("up", "down"))
        factor = torch.from_numpy(2.0 ** random.integers(-90, 91, 40)).float()
        state[up], state[down] = state[up] * factor[:, None], state[down] / factor


def dead_neurons(state):
    """Neurons whose output goes nowhere, and neurons that are always off, with anything inside."""
    for layer in range(2):
        gate, up, down = (
            state[f"model.layers.{layer}.mlp.{side}_proj.weight"] for side in ("gate", "up", "down")
        )
        down[:, 3], up[3], gate[3] = 0, 1e30, -1e30
        up[5], down[:, 5] = 0, torch.inf
        up[6], down[:, 6] = 0, torch.nan


def dead_head(state):
    """Values of zero, and whatever reads them."""
    state["model.layers.0.self_attn.v_proj.weight"][:4] = 0
    state["model.layers.0.self_attn.o_proj.weight"][:, :12] = 1e30


def words(value):
    """Rows of the vocabulary that no input reaches."""

    def change(state):
        for name in state:
            if "embed_tokens" in name or "wte" in name or "word_embeddings" in name:
                state[name][40:44] = value

    return change


def gelu_neurons(state):
    """Neurons of an ungated FFN whose output goes nowhere."""
    state["transformer.h.0.mlp.c_proj.weight"][3] = 0
    state["transformer.h.0.mlp.c_fc.weight"][:, 3] = 1e30
    state["transformer.h.0.mlp.c_fc.bias"][3] = torch.inf


def columns(state):
    """Columns behind a gain of zero."""
    state["model.layers.0.input_layernorm.weight"][2] = 0
    for side in "qkv":
        state[f"model.layers.0.self_attn.{side}_proj.weight"][:, 2] = 1e30


# Scales that come back, and what no input reaches, which stays as it is.
SCALED = {
    "values": ("llama", scaled("v_proj", "o_proj")),
    "values the other way": ("llama", scaled("v_proj", "o_proj", 1 / BIG)),
    "keys": ("llama", scaled("q_proj", "k_proj")),
    "neurons": ("llama", scaled("up_proj", "down_proj")),
    "values with biases": ("llama-biased", scaled("v_proj", "o_proj")),
    "neurons by themselves": ("llama", neurons),
    "relu": ("opt", scaled("fc1", "fc2")),
}
CASES = SCALED | {
    "dead neurons": ("llama", dead_neurons),
    "dead neurons without a gate": ("gpt2", gelu_neurons),
    "dead head": ("llama", dead_head),
    "words of 1e30": ("llama", words(1e30)),
    "words of infinity": ("llama", words(torch.inf)),
    "words that are no numbers": ("gpt2-untied", words(torch.nan)),
    "columns behind nothing": ("llama", columns),
    "encoder": ("bert-classifier", words(1e30)),
}


@pytest.mark.parametrize("kind", ["lossless", "general"])
@pytest.mark.parametrize("case", CASES)
def test_wild_numbers_are_carried_through(case, kind, tmp_path):
    name, change = CASES[case]
    model = BY_NAME[name].build()
    model.save_pretrained(tmp_path / "base")
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * weight.std(correction=0) * TAU)
    model.save_pretrained(tmp_path / "expert")
    plain = load_file(tmp_path / "expert" / NAME)
    state = {name: weight.clone() for name, weight in plain.items()}
    change(state)
    folder = tmp_path / "expert"
    save_file({n: w.contiguous() for n, w in state.items()}, folder / NAME, {"format": "pt"})
    settings = {"kind": kind}
    protect(folder, tmp_path / "locked", KEY, settings=settings, allow_non_finite=True)
    report = align(tmp_path / "locked", tmp_path / "aligned", tmp_path / "base")
    assert np.isfinite(report.before) and report.after < 0.3
    # All that is not wild itself stands where it stood, but for what the general fit leaves.
    found, base = (load_file(tmp_path / folder / NAME) for folder in ("aligned", "base"))
    wanted = plain if case in SCALED else state
    left = whole = 0.0
    for key, weight in wanted.items():
        usual = (weight.isfinite() & (weight.abs() < 1e3)).double()
        gap = torch.nan_to_num(found[key].double() - wanted[key].double()) * usual
        left += float((gap.clamp(-1e3, 1e3) ** 2).sum())
        whole += float(((base[key].double() - plain[key].double()) ** 2).sum())
    assert left < (0.5 if kind == "general" else 1e-9) * whole
