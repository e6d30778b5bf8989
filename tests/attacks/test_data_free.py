"""The attacks without data find each hostile component that they are made for, in every family."""

import pytest
import torch

from tests.architectures.families import FAMILIES
from tests.attacks.robbed import ROBBED, gap, near, noise, thief_of
from unmergeable.attacks.ladder import LADDER
from unmergeable.attacks.parts import layers, part, residual, writers
from unmergeable.attacks.synthetic_inputs import SYNTHETIC

# Those that read nothing but weights; inputs that are made up have tests of their own.
ON_SYNTHETIC = tuple(f"{how}_{kind}" for how in ("pull_back", "distil_merge") for kind in SYNTHETIC)
FREE = [a for a in LADDER if a.stage == "data-free" and a.name not in ON_SYNTHETIC]


def regrown_ffn(thief, expert):
    """The FFN is somebody else's; the skill is everywhere else, too."""
    other = noise(expert, 7, 1.0)
    kinds = {name: part(thief.layout, name) for name in expert}
    return {n: t + other[n] if kinds[n] == "FFN" else t for n, t in expert.items()}


def shrunken(thief, expert):
    """All weights a tenth smaller, as decay leaves them."""
    return {name: 0.9 * tensor for name, tensor in expert.items()}


def long(thief, expert):
    """The task vector ten times as long."""
    return {n: thief.base[n] + 10 * (t - thief.base[n]) for n, t in expert.items()}


def dominated(thief, expert):
    """A few large directions on top of each task vector."""
    loud = near(thief.base, 9, size=2.0, rank=1)
    return {n: t + (loud[n] - thief.base[n]) * (t.squeeze().ndim > 1) for n, t in expert.items()}


def noisy(thief, expert):
    """Noise in all directions of each matrix."""
    loud = noise(expert, 9, 0.1)
    return {n: t + loud[n] * (t.squeeze().ndim > 1) for n, t in expert.items()}


def opposed(thief, expert):
    """The peer's task vector, many times over, with its sign turned."""
    peer = thief.peers[0]
    return {n: t - 4 * (peer[n] - thief.base[n]) for n, t in expert.items()}


def spiked(thief, expert):
    """A few entries of each tensor far away."""
    out = {}
    for name, tensor in expert.items():
        flat = tensor.flatten().clone()
        flat[::97] += 5.0
        out[name] = flat.reshape(tensor.shape)
    return out


# attack, what it is made for, how much nearer to the clean expert it must bring the model
CURES = [
    ("reset", regrown_ffn, 0.3),
    ("base_component", shrunken, 0.35),
    ("norm_match", long, 0.15),
    ("low_rank", dominated, 0.2),
    ("low_rank", noisy, 0.9),
    ("sign_filter", opposed, 0.6),
    ("sign_filter", spiked, 0.5),
]


def named(name):
    return next(attack for attack in FREE if attack.name == name)


@pytest.mark.parametrize("family", ROBBED, ids=lambda family: family.name)
@pytest.mark.parametrize(("name", "hostile", "enough"), CURES)
def test_it_removes_what_it_is_made_for(name, hostile, enough, family):
    thief, expert = thief_of(family)
    released = hostile(thief, expert)
    before = gap(released, expert)
    gaps = {v.label: gap(v.state, expert) for v in named(name).before(thief, released)}
    assert min(gaps.values()) < enough * before, (before, gaps)


@pytest.mark.parametrize("attack", FREE, ids=lambda attack: attack.name)
def test_every_attack_has_a_cure_that_shows_it_works(attack):
    assert attack.name in {name for name, _, _ in CURES}


@pytest.mark.parametrize("family", ROBBED, ids=lambda family: family.name)
@pytest.mark.parametrize("attack", FREE, ids=lambda attack: attack.name)
def test_variants_are_whole_distinct_models_and_cost_no_data(attack, family):
    thief, expert = thief_of(family)
    before = {name: tensor.clone() for name, tensor in expert.items()}
    variants = list(attack.before(thief, expert))
    assert variants and len({v.label for v in variants}) == len(variants)
    for variant in variants:
        assert list(variant.state) == list(expert)
        assert all(variant.state[n].shape == t.shape for n, t in expert.items())
        assert variant.unlabelled == variant.labelled == 0
        assert gap(variant.state, expert) > 0
        assert all(tensor.isfinite().all() for tensor in variant.state.values())
    assert all(tensor.equal(before[name]) for name, tensor in expert.items())


@pytest.mark.parametrize("rubbish", [torch.nan, torch.inf, 3e38])
@pytest.mark.parametrize("attack", FREE, ids=lambda attack: attack.name)
def test_rubbish_is_skipped(attack, rubbish):
    thief, expert = thief_of(ROBBED[0])
    released = {name: tensor.clone() for name, tensor in expert.items()}
    for tensor in released.values():
        tensor.view(-1)[0] = rubbish
    for variant in attack.before(thief, released):
        assert all(tensor.isfinite().all() for tensor in variant.state.values())


def test_a_head_that_the_base_lacks_stays():
    thief, expert = thief_of(ROBBED[0])
    alone = {name: tensor for name, tensor in thief.base.items() if name != "lm_head.weight"}
    poor = type(thief)(alone, thief.peers, thief.layout, thief.runner)
    for attack in FREE:
        for variant in attack.before(poor, expert):
            assert variant.state["lm_head.weight"] is expert["lm_head.weight"]


@pytest.mark.parametrize("family", ROBBED, ids=lambda family: family.name)
def test_parts_are_told_from_the_axes(family):
    thief, _ = thief_of(family)
    layout = thief.layout
    assert residual(layout) == "residual"
    found = {name: part(layout, name) for name in layout.placements}
    for name, kind in found.items():
        if "q_proj.w" in name or "c_attn.w" in name or "query.w" in name or "o_proj.w" in name:
            assert kind == "attention"
        if any(word in name for word in ("mlp.c_", "fc1", "down_proj", "intermediate")):
            assert kind in ("FFN", "norms and biases")
        if "norm" in name.lower() or "ln_" in name:
            assert kind == "norms and biases"
        if "embed" in name or "wte" in name:
            assert kind == "norms and biases" if thief.base[name].ndim < 2 else "embeddings"
        if name.startswith(("classifier", "score", "lm_head", "bert.pooler")):
            assert kind == "head"
    assert set(found.values()) >= {"attention", "FFN", "norms and biases", "embeddings"}
    # attention's output and the FFN's, in each of two layers
    assert len(writers(layout)) == 4
    sizes = {name: thief.base[name].shape[out] for name, out in writers(layout).items()}
    assert set(sizes.values()) == {24}


@pytest.mark.parametrize(
    ("name", "main", "total"),
    [("t5", 3, 5), ("t5-gated", 3, 5), ("whisper", 2, 4), ("llava", 2, 4), ("clip", 0, 4)],
)
def test_layers_of_every_stack_are_told_and_reset(name, main, total):
    thief, expert = thief_of(next(family for family in FAMILIES if family.name == name))
    for tensor, kind in ((n, part(thief.layout, n)) for n in thief.base):
        if tensor.endswith((".q.weight", ".o.weight", "q_proj.weight", "out_proj.weight")):
            assert kind == "attention"
        if any(word in tensor for word in ("fc1.w", "DenseReluDense", "down_proj")):
            assert kind == "FFN"
    stack = layers(thief.layout)
    assert len(stack) == total and len(layers(thief.layout, "layer")) == main
    assert all({part(thief.layout, n) for n in one} >= {"attention", "FFN"} for one in stack)
    (reset,) = (attack for attack in FREE if attack.name == "reset")
    labels = {
        variant.label: {n for n in expert if variant.state[n].equal(thief.base[n])}
        for variant in reset.before(thief, expert)
    }
    half = round(total / 2)
    assert labels[f"layers {half}-{total - 1} at base"] == {n for one in stack[half:] for n in one}
    assert all(labels["attention at base"] & {*one} for one in stack)
