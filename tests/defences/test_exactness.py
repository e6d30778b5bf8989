"""Every exact defence leaves the function: each architecture, each dtype, the bars of the lock."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from tests.architectures.families import BY_NAME, FAMILIES, all_in_float64, outputs
from tests.architectures.families_recurrent import GATED
from tests.architectures.moving import scene
from tests.architectures.twin import (
    bfloat16_cost,
    error,
    moved,
    same_generation,
    subject_of,
    weights,
)
from tests.defences.rows import ROWS
from unmergeable.errors import InputError
from unmergeable.gauge.groups import Linear, Rotary

# One of each architecture: grouped queries and biases under rotary positions; tied; fused and
# transposed; encoder; images; gated; encoder and decoder with cross-attention, ReLU and gated.
SOME = {
    "llama-biased", "qwen2-tied", "gpt2", "bert-masked", "vit-classifier", "dinov2-gated", "t5",
    "t5-gated",
}  # fmt: skip

rows = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
some = pytest.mark.parametrize("family", sorted(SOME))


# Convolutions alone have no heads.
HEADLESS = ("convnext", "convnextv2", "dinov3-convnext")
# Clamped queries, keys and values leave PaRaMS nothing to scale; so do values behind a gate, or
# behind a norm.
HELD = (
    "mpt-clipped", "olmo-clipped", "olmoe-clipped", "afmoe", *GATED, "gemma3n-text",
    *(family.name for family in FAMILIES if family.name.startswith("gemma4")),
)  # fmt: skip
REFUSED = {("params", name) for name in HELD}
REFUSED |= {(defence, name) for defence in ("params", "mergelock") for name in HEADLESS}


@pytest.mark.parametrize(
    ("row", "family"),
    [(row, f.name) for row in ROWS for f in FAMILIES if row.every or f.name in SOME],
    ids=lambda value: getattr(value, "name", value),
)
def test_float64_outputs_agree_to_the_last_digits(row, family):
    stage = scene(family)
    if (row.name, family) in REFUSED:
        with pytest.raises(
            InputError, match=r"nothing that parts=heads could move|no space inside att"
        ):
            row.draw(stage.subject())
        return
    twin = stage.filled(stage.moved(row.draw(stage.subject())))
    with all_in_float64():
        for padded in (False, True):
            inputs = stage.family.inputs(torch.float64, padded)
            one, two = outputs(stage.model, inputs), outputs(twin, inputs)
            assert (one - two).abs().max() <= 1e-9 * one.abs().max()


@rows
@some
def test_float32_outputs_agree(row, family):
    assert 0 < error(BY_NAME[family], torch.float32, row.draw) <= row.float32


@pytest.mark.parametrize("row", [row for row in ROWS if row.narrow], ids=lambda row: row.name)
@some
def test_bfloat16_costs_no_more_than_bfloat16_costs_anyway(row, family):
    assert bfloat16_cost(BY_NAME[family], row.draw, seeds=8) <= 1.5


@rows
@pytest.mark.parametrize("family", sorted(name for name in SOME if BY_NAME[name].generates))
def test_cached_generation_gives_the_same_tokens(row, family):
    assert same_generation(BY_NAME[family], row.draw)


@cache
def made(name, family):
    """A subject, what the defence decided for it, and the gauge made again from that."""
    row = next(row for row in ROWS if row.name == name)
    subject = subject_of(BY_NAME[family])
    decision = row.defence.decide(row.settings, subject)
    gauge = row.defence.gauge(subject.key, subject.layout, decision.settings, decision.secret)
    return subject, decision, gauge


@rows
@some
def test_the_way_back_is_the_inverse(row, family):
    state = weights(BY_NAME[family].build(torch.float64))
    subject, _, gauge = made(row.name, family)
    there = moved(state, subject.layout, gauge)
    again = moved(there, subject.layout, gauge, back=True)
    for name, weight in state.items():
        assert (again[name] - weight).norm() <= 1e-10 * weight.norm(), name


@rows
@some
def test_lossless_says_what_happens_to_the_bits(row, family):
    subject, decision, gauge = made(row.name, family)
    maps = [subject.layout.tensor_map(name, gauge) for name in subject.layout.placements]
    assert decision.lossless == all(change.is_lossless for change in maps)


@rows
@some
def test_everything_it_names_moves_and_nothing_else(row, family):
    subject, decision, gauge = made(row.name, family)
    for space in subject.layout.movable().values():
        for instance in subject.layout.instances(space):
            still = gauge(space, instance).is_identity
            assert still == (space.name not in decision.bits), (space.name, instance)


@rows
@some
def test_heads_of_a_layer_and_layers_of_a_model_differ(row, family):
    subject, decision, gauge = made(row.name, family)
    for name in decision.bits:
        space = subject.layout.spaces[name]
        seen = [
            gauge(space, instance)(np.eye(space.size)).tobytes()
            for instance in subject.layout.instances(space)
        ]
        assert len(set(seen)) == len(seen) > 1, name


@rows
@some
def test_the_element_belongs_to_the_space_s_group(row, family):
    subject, _, gauge = made(row.name, family)
    for space in subject.layout.movable().values():
        matrix = gauge(space, next(subject.layout.instances(space)))(np.eye(space.size or 0))
        if isinstance(space.group, Rotary):
            real, imaginary = space.group.planes(space.size)
            turn = np.zeros_like(matrix)
            for frequency, (a, b) in enumerate(zip(real, imaginary, strict=True)):
                angle = 0.7 / (1 + frequency)
                turn[a, a] = turn[b, b] = np.cos(angle)
                turn[b, a], turn[a, b] = np.sin(angle), -np.sin(angle)
            np.testing.assert_allclose(matrix @ turn, turn @ matrix, atol=1e-9)
        elif not isinstance(space.group, Linear):
            assert ((matrix == 0) | (matrix == 1)).all() and (matrix.sum(0) == 1).all()
