"""Disguises: changes of weights that keep what a model computes and that no space of it knows of.

Each is a row of REWRITES, which is read off the declarations and drawn at random. `disguised`
composes them. Alignment must undo all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from unmergeable.architectures.directions import directions_of
from unmergeable.architectures.layout import Layout
from unmergeable.architectures.norms import norms_of
from unmergeable.architectures.shifts import shifts_of

State = dict[str, torch.Tensor]
Draw = Callable[[np.random.Generator, int], np.ndarray[Any, Any]]


def powers(random: np.random.Generator, size: int) -> np.ndarray[Any, Any]:
    """Signs, and powers of two that no fine-tuning comes near."""
    return random.choice([-1.0, 1.0], size) * 2.0 ** random.integers(-6, 7, size)


def reals(random: np.random.Generator, size: int) -> np.ndarray[Any, Any]:
    """Signs, and any scales."""
    return random.choice([-1.0, 1.0], size) * np.exp2(random.uniform(-6, 6, size))


def gains(state: State, layout: Layout, random: np.random.Generator, draw: Draw) -> None:
    """The gain of a norm times c, the columns of its readers over c."""
    shapes = {name: tuple(weight.shape) for name, weight in state.items()}
    for norm in norms_of(layout, shapes):
        c = draw(random, norm.size)
        wide = state[norm.gain].double().numpy() + norm.offset
        put(state, norm.gain, wide * c - norm.offset)
        for touch, power in [(t, 1) for t in norm.adders] + [(t, -1) for t in norm.readers]:
            weight = state[touch.name].double().numpy()
            shape = [-1 if axis == touch.axis else 1 for axis in range(weight.ndim)]
            put(state, touch.name, weight * (c[touch.places] ** power).reshape(shape))


def biases(state: State, layout: Layout, random: np.random.Generator, draw: Draw) -> None:
    """A vector added to a bias, and what matrices make of it taken from the biases behind it."""
    shapes = {name: tuple(weight.shape) for name, weight in state.items()}
    for shift in shifts_of(layout, shapes, norms_of(layout, shapes)):
        delta = amount(random, state[shift.adder], len(shift.places))
        bias = state[shift.adder].double().numpy().copy()
        bias[shift.places] += delta
        put(state, shift.adder, bias)
        for taker in shift.takers:
            weight = np.moveaxis(state[taker.matrix].double().numpy(), taker.axis, 1)
            taken = weight @ delta[taker.places]
            put(state, taker.bias, state[taker.bias].double().numpy() - taken)


def directions(state: State, layout: Layout, random: np.random.Generator, draw: Draw) -> None:
    """What no output shows, added along an axis of a tensor: a softmax or a LayerNorm is behind."""
    shapes = {name: tuple(weight.shape) for name, weight in state.items()}
    for one in directions_of(layout, shapes):
        weight = state[one.name].double().numpy()
        others = [size for axis, size in enumerate(weight.shape) if axis != one.axis]
        delta = amount(random, state[one.name], int(np.prod(others))).reshape(others)
        put(state, one.name, weight + np.expand_dims(delta, one.axis))


def amount(random: np.random.Generator, near: torch.Tensor, size: int) -> np.ndarray[Any, Any]:
    """A vector several times as large as what it is added to, or about as large."""
    usual = float(near.double().std(correction=0)) or 1.0
    return random.standard_normal(size) * usual * random.choice([1, 6])


def put(state: State, name: str, value: np.ndarray[Any, Any]) -> None:
    """Sets a tensor, in its own dtype."""
    state[name] = torch.from_numpy(value).to(state[name].dtype)


REWRITES: list[Callable[[State, Layout, np.random.Generator, Draw], None]] = [
    gains,
    biases,
    directions,
]
# Those that add, so that numbers round whatever is drawn.
ADDITIVE = {biases, directions}


def disguised(
    state: Mapping[str, torch.Tensor],
    layout: Layout,
    seed: int = 0,
    draw: Draw = powers,
    additive: bool = True,
) -> State:
    """The same model in other weights.

    Args:
        state: its tensors.
        layout: where each lives.
        seed: of the disguise.
        draw: the scales; powers of two and signs round nothing, but where gains have an offset.
        additive: whether rewrites that add are in it.
    """
    random, made = np.random.default_rng(seed), dict(state)
    for rewrite in REWRITES:
        if rewrite in ADDITIVE and not additive:
            continue
        rewrite(made, layout, random, draw)
    return made
