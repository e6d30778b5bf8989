"""An open model and the same model moved by a gauge, both in memory, and how far they are apart."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import nn

from tests.architectures.families import Family, all_in_float64, outputs
from unmergeable.architectures.layout import Layout
from unmergeable.defences import lock
from unmergeable.defences.defence import Defence, Subject
from unmergeable.gauge.notation import Gauge
from unmergeable.keys import Key

KEY = Key(bytes(range(32)))
DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16"}
BITS = {torch.float64: torch.int64, torch.float32: torch.int32, torch.bfloat16: torch.int16}
# What gives the gauge of a subject.
Draw = Callable[[Subject], Gauge]


def lock_of(kind: str) -> Draw:
    """The lock of that kind."""

    def draw(subject: Subject) -> Gauge:
        settings = lock.LockSettings.resolve({"kind": kind}, subject.layout, subject.dtypes)
        return lock.gauge(subject.key, settings)

    return draw


def defence_of(defence: Defence, given: Mapping[str, object]) -> Draw:
    """A defence, drawn again from what it decided, as unlocking would."""

    def draw(subject: Subject) -> Gauge:
        made = defence.decide(given, subject)
        return defence.gauge(subject.key, subject.layout, made.settings, made.secret)

    return draw


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """By name, tied ones once, as they are stored."""
    return {name: weight.detach() for name, weight in model.named_parameters()}


def subject_of(
    family: Family, dtype: torch.dtype = torch.float32, seed: int = 0, tau: float = 0.02
) -> Subject:
    """A family's tiny model as a defence meets it; its base is `tau` away."""
    model = family.build(dtype, seed)
    state = {name: weight.double().numpy() for name, weight in weights(model).items()}
    config = {**model.config.to_dict(), "architectures": [family.model]}
    layout = Layout.of(config, {name: weight.shape for name, weight in state.items()})
    random = np.random.default_rng(seed + 100)
    base = {
        name: weight - tau * weight.std() * random.normal(size=weight.shape)
        for name, weight in sorted(state.items())
    }
    key = Key(bytes([seed]) * 32) if seed else KEY
    return Subject(layout, key, frozenset({DTYPES[dtype]}), state.__getitem__, base.__getitem__)


def moved(
    state: Mapping[str, torch.Tensor], layout: Layout, gauge: Gauge, *, back: bool = False
) -> dict[str, torch.Tensor]:
    """Weights after the gauge, cast once, as `protect` stores them; `back`: as `unlock` does."""
    found = {}
    for name, weight in state.items():
        change = layout.tensor_map(name, gauge)
        data = weight.contiguous().view(BITS[weight.dtype]).numpy().reshape(-1).view(np.uint8)
        change = change.inverse if back else change
        bits = change.apply(data, weight.shape, DTYPES[weight.dtype]).copy()
        found[name] = torch.from_numpy(bits).view(weight.dtype).reshape(weight.shape)
    return found


def pair(
    family: Family, dtype: torch.dtype, draw: Draw, seed: int = 0
) -> tuple[nn.Module, nn.Module]:
    """The open model and its twin."""
    model, twin = family.build(dtype, seed), family.build(dtype, seed)
    subject = subject_of(family, dtype, seed)
    change = moved(weights(model), subject.layout, draw(subject))
    assert not twin.load_state_dict(change, strict=False).unexpected_keys
    twin.tie_weights()
    return model, twin


def error(family: Family, dtype: torch.dtype, draw: Draw) -> float:
    """The largest difference of an output, relative to the largest, with and without padding."""
    worst = 0.0
    with all_in_float64() if dtype == torch.float64 else contextlib.nullcontext():
        model, twin = pair(family, dtype, draw)
        assert next(twin.parameters()).dtype == dtype
        for padded in (False, True):
            inputs = family.inputs(dtype, padded)
            one, two = outputs(model, inputs), outputs(twin, inputs)
            worst = max(worst, float((one - two).abs().max() / one.abs().max()))
    return worst


def bfloat16_cost(family: Family, draw: Draw, seeds: int = 6) -> float:
    """What moving adds to the rounding of bfloat16: the twin's error over the open model's.

    Both are root mean squares against the open model in float32; the geometric mean over tiny
    models and keys of several seeds, since in one of them a single near tie of attention decides.
    """
    found = []
    for seed in range(seeds):
        model, twin = pair(family, torch.bfloat16, draw, seed)
        inputs = family.inputs(torch.bfloat16, padded=True)
        rounded, changed = outputs(model, inputs), outputs(twin, inputs)
        wide = {name: x.float() if x.is_floating_point() else x for name, x in inputs.items()}
        exact = outputs(model.float(), wide)
        found.append(float((changed - exact).norm() / (rounded - exact).norm()))
    return float(np.exp(np.mean(np.log(found))))


def same_generation(family: Family, draw: Draw) -> bool:
    """Whether greedy generation gives the same tokens, with the cache and without it."""
    model, twin = pair(family, torch.float32, draw)
    return (
        generate(model, family, True)
        == generate(twin, family, True)
        == generate(twin, family, False)
    )


def generate(model: nn.Module, family: Family, use_cache: bool) -> list[list[int]]:
    """12 more tokens for padded prompts."""
    prompt = {name: x[:, :6] for name, x in family.inputs(padded=True).items()}
    prompt["attention_mask"][0] = 1
    settings = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    tokens: list[list[int]] = model.generate(**prompt, **settings, use_cache=use_cache).tolist()
    return tokens
