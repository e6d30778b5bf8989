"""An open model and the same model moved by a gauge, and how far they are apart.

Tensors go by the names that they have on disk, which are not those in memory for all architectures.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from tests.architectures.families import FAMILIES, Family, all_in_float64, outputs
from unmergeable.architectures.layout import Layout
from unmergeable.defences import lock
from unmergeable.defences.defence import GaugeDefence, Subject
from unmergeable.gauge.notation import Gauge
from unmergeable.keys.key import Key

KEY = Key(bytes(range(32)))
DTYPES = {torch.float64: "F64", torch.float32: "F32", torch.bfloat16: "BF16"}
BITS = {torch.float64: torch.int64, torch.float32: torch.int32, torch.bfloat16: torch.int16}
# The tokens that stand for images and videos in `families_images.py`.
NO_WORDS = [57, 58, 59, 60]
PERCEIVED = {"pixel_values", "input_features"}
# What gives the gauge of a subject.
Draw = Callable[[Subject], Gauge]


def lock_of(kind: str) -> Draw:
    """The lock of that kind."""

    def draw(subject: Subject) -> Gauge:
        settings = lock.LockSettings.resolve({"kind": kind, "scales": True}, subject.layout)
        return lock.gauge(subject.key, settings)

    return draw


def defence_of(defence: GaugeDefence, given: Mapping[str, object]) -> Draw:
    """A defence, drawn again from what it decided, as unlocking would."""

    def draw(subject: Subject) -> Gauge:
        made = defence.decide(given, subject)
        return defence.gauge(subject.key, subject.layout, made.settings, made.secret)

    return draw


def saved(model: nn.Module) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """A model's config.json, and its tensors by the names they have in its folder."""
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        config = json.loads((Path(folder) / "config.json").read_text("utf-8"))
        return config, load_file(f"{folder}/model.safetensors")


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Its tensors, as `saved` gives them."""
    return saved(model)[1]


def loaded(model: nn.Module, state: Mapping[str, torch.Tensor]) -> nn.Module:
    """A model of the same class, config and dtype, with the tensors of a folder."""
    made: nn.Module = type(model).from_pretrained(  # type: ignore[attr-defined]
        None, config=model.config, state_dict=dict(state), dtype=next(model.parameters()).dtype,
        attn_implementation="eager", experts_implementation="eager",
    ).eval()  # fmt: skip
    return made


FIRST = 1 << 20  # no weight or buffer of a tiny model is as large as this


def sources_of(model: nn.Module, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Which element of a folder stands at each place of each weight in memory.

    Found by letting transformers load a folder that holds the numbers of its elements, so names,
    transposed matrices and experts stored one by one need no knowledge here. What is not read from
    the folder is left out.
    """
    numbered, start = {}, FIRST
    for name, weight in sorted(state.items()):
        numbered[name] = weight
        if weight.is_floating_point():
            places = torch.arange(start, start + weight.numel(), dtype=torch.float64)
            numbered[name] = places.reshape(weight.shape)
            start += weight.numel()
    found = loaded(model, numbered).state_dict()
    return {
        name: weight.long() - FIRST
        for name, weight in found.items()
        if weight.is_floating_point() and ((weight >= FIRST) & (weight == weight.round())).all()
    }


def fill(
    model: nn.Module, sources: dict[str, torch.Tensor], state: dict[str, torch.Tensor]
) -> None:
    """Does at once what `from_pretrained` does in many steps: `scene` shows that it is the same."""
    elements = torch.cat([w.reshape(-1) for _, w in sorted(state.items()) if w.is_floating_point()])
    weights = model.state_dict()
    with torch.no_grad():
        for name, places in sources.items():
            weights[name].copy_(elements[places])


@cache
def places_of(name: str) -> dict[str, torch.Tensor]:
    """`sources_of` the model of a row of FAMILIES; they are the same in every dtype."""
    with all_in_float64():
        model = next(family for family in FAMILIES if family.name == name).build(torch.float64)
        return sources_of(model, weights(model))


def subject_of(
    family: Family, dtype: torch.dtype = torch.float32, seed: int = 0, tau: float = 0.02
) -> Subject:
    """A family's tiny model as a defence meets it; its base is `tau` away."""
    return subject_from(*saved(family.build(dtype, seed)), dtype, seed, tau)


def subject_from(
    config: dict[str, Any],
    tensors: Mapping[str, torch.Tensor],
    dtype: torch.dtype,
    seed: int = 0,
    tau: float = 0.02,
) -> Subject:
    """The same, of what is saved of the model."""
    state = {name: weight.double().numpy() for name, weight in tensors.items()}
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
    for name in state:
        # Experts change places by their tensors' names.
        source = layout.destination(name, gauge) if back else layout.source(name, gauge)
        weight, change = state[source], layout.tensor_map(name if back else source, gauge)
        if weight.dtype in DTYPES:
            data = weight.contiguous().view(BITS[weight.dtype]).numpy().reshape(-1).view(np.uint8)
            change = change.inverse if back else change
            bits = change.apply(data, weight.shape, DTYPES[weight.dtype]).copy()
            weight = torch.from_numpy(bits).view(weight.dtype).reshape(weight.shape)
        found[name] = weight
    return found


def pair(
    family: Family, dtype: torch.dtype, draw: Draw, seed: int = 0
) -> tuple[nn.Module, nn.Module]:
    """The open model and its twin."""
    built = family.build(dtype, seed)
    config, state = saved(built)
    subject = subject_from(config, state, dtype, seed)
    model = loaded(built, state)
    twin = deepcopy(model)
    fill(twin, places_of(family.name), moved(state, subject.layout, draw(subject)))
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
        found.append(rounding_cost(family, model, twin))
    return float(np.exp(np.mean(np.log(found))))


def rounding_cost(
    family: Family, model: nn.Module, twin: nn.Module, exact: torch.Tensor | None = None
) -> float:
    """The same for one model and its twin; `exact` is what the open model computes in float32."""
    inputs = family.inputs(torch.bfloat16, padded=True)
    rounded, changed = outputs(model, inputs), outputs(twin, inputs)
    if exact is None:
        wide = {name: x.float() if x.is_floating_point() else x for name, x in inputs.items()}
        exact = outputs(model.float(), wide)
    return float((changed - exact).norm() / (rounded - exact).norm())


def same_generation(family: Family, draw: Draw) -> bool:
    """Whether greedy generation gives the same tokens, with the cache and without it."""
    model, twin = pair(family, torch.float32, draw)
    return (
        generate(model, family, True)
        == generate(twin, family, True)
        == generate(twin, family, False)
    )


def prompt_of(family: Family) -> dict[str, torch.Tensor]:
    """The first tokens of each input, one padded on the left; images and sounds as they are."""
    whole = family.inputs(padded=True)
    length = 12 if whole.keys() & PERCEIVED else 6
    prompt = {
        name: x if name.startswith(("pixel", "image", "input_f", "feature")) else x[:, :length]
        for name, x in whole.items()
    }
    prompt["attention_mask"][0] = 1
    return prompt


def settings_of(prompt: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Greedy generation of a dozen tokens, none of which asks for an image that is not there."""
    settings = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    return settings | ({"suppress_tokens": NO_WORDS} if prompt.keys() & PERCEIVED else {})


def generate(model: nn.Module, family: Family, use_cache: bool) -> list[list[int]]:
    """12 more tokens for padded prompts."""
    prompt = prompt_of(family)
    settings = settings_of(prompt)
    tokens: list[list[int]] = model.generate(**prompt, **settings, use_cache=use_cache).tolist()
    return tokens
