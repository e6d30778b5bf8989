"""Disguises: changes of weights that keep what a model computes and that no space of it knows of.

Each is a row of REWRITES, which is read off the declarations and drawn at random. `disguised`
composes them. Alignment must undo all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from unmergeable.architectures.directions import Direction, directions_of
from unmergeable.architectures.layout import Layout
from unmergeable.architectures.norms import norms_of
from unmergeable.architectures.score_norms import balances_of, rows_of
from unmergeable.architectures.shifts import shifts_of
from unmergeable.architectures.streams import streams_of
from unmergeable.gauge.axis_map import AxisMap
from unmergeable.gauge.notation import Space

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
        put(state, norm.gain, wide * c.reshape(-1, *[1] * (wide.ndim - 1)) - norm.offset)
        for touch, power in [(t, 1) for t in norm.adders] + [(t, -1) for t in norm.readers]:
            weight = state[touch.name].double().numpy()
            shape = [-1 if axis == touch.axis else 1 for axis in range(weight.ndim)]
            by = np.where(touch.places < 0, 1.0, c[touch.places]) ** power
            put(state, touch.name, weight * by.reshape(shape))


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
        by = np.expand_dims(delta, one.axis)
        put(state, one.name, weight + by * along(state, one, weight.ndim))


def along(state: State, one: Direction, ndim: int) -> np.ndarray[Any, Any]:
    """The vector of a direction, as large as the all-ones vector of its length."""
    if one.over is None:
        return np.ones(1)
    by = 1 / (state[one.over.gain].double().numpy() + one.over.offset)[one.over.places]
    return np.expand_dims(by / rms(by), [axis for axis in range(ndim) if axis != one.axis])


def rms(x: np.ndarray[Any, Any]) -> float:
    """The usual size of numbers."""
    return float(np.sqrt(np.mean(x**2)))


def scores(state: State, layout: Layout, random: np.random.Generator, draw: Draw) -> None:
    """The gains of queries times c, those of keys over c."""
    shapes = {name: tuple(weight.shape) for name, weight in state.items()}
    for balance in balances_of(layout, shapes):
        c = draw(random, balance.size)
        for sides, power in ((balance.times, 1), (balance.over, -1)):
            for places in sides:
                wide = state[places.name].double().numpy() + places.offset
                by = (c[places.scales] ** power).reshape(wide.shape)
                put(state, places.name, wide * by - places.offset)


def lengths(state: State, layout: Layout, random: np.random.Generator, draw: Draw) -> None:
    """What a norm of queries, keys or a block normalises times c; signs between rows and gains."""
    shapes = {name: tuple(weight.shape) for name, weight in state.items()}
    for rows in rows_of(layout, shapes):
        c = np.append(np.abs(draw(random, rows.norms)), 1.0)
        sign = np.append(signs(random, rows.flips), 1.0)
        for places in (rows.matrix, *rows.others):
            by = c[places.scales] * sign[rows.signs]
            weight = state[places.name].double().numpy()
            axis = rows.axis if places is rows.matrix else 0
            shape = [-1 if one == axis else 1 for one in range(weight.ndim)]
            put(state, places.name, weight * by.reshape(shape))
        for places in rows.gains:
            wide = state[places.name].double().numpy() + places.offset
            put(state, places.name, wide * sign[places.scales].reshape(wide.shape) - places.offset)


def streams(state: State, layout: Layout, random: np.random.Generator, draw: Draw) -> None:
    """All that writes into a stream, or into a norm before it, times c; a sign goes into gains."""
    shapes = {name: tuple(weight.shape) for name, weight in state.items()}
    for stream in streams_of(layout, shapes):
        c = float(draw(random, 1)[0])
        c = c if stream.gains else abs(c)
        changes = [(part, c**part.power) for part in stream.parts]
        for part, by in changes + [(gain, np.sign(c)) for gain in stream.gains]:
            wide = state[part.name].double().numpy() + part.offset
            put(state, part.name, wide * by - part.offset)


def turns(state: State, layout: Layout, random: np.random.Generator, draw: Draw) -> None:
    """The sign of all positions of a stream that LayerNorms read, and no activation."""
    turned = {name for name in layout.centred & layout.movable().keys() if "residual" in name}
    turned -= set(layout.sized)
    for placement in layout.placements.values():
        names = [name for axis in placement.rule.axes for name in set(axis.names())]
        turned -= {name for name in names if names.count(name) > 1}  # into an activation

    def gauge(space: Space, instance: tuple[int, ...]) -> AxisMap:
        order = np.arange(space.size or 0)
        return AxisMap.monomial(order, np.full(len(order), -1.0 if space.name in turned else 1.0))

    for name in state if turned else ():
        change = layout.tensor_map(name, gauge)
        if not change.is_identity:
            put(state, name, change(state[name].double().numpy()))


def signs(random: np.random.Generator, size: int) -> np.ndarray[Any, Any]:
    """One or minus one, at random."""
    return random.choice([-1.0, 1.0], size)


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
    scores,
    lengths,
    streams,
    turns,
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
    made = dict(state)
    for number, rewrite in enumerate(REWRITES):
        if rewrite in ADDITIVE and not additive:
            continue
        rewrite(made, layout, np.random.default_rng([number, seed, 2]), draw)
    return made


@contextmanager
def no_epsilon(model: torch.nn.Module) -> Iterator[None]:
    """Norms take off any length: what they add to it is what such a disguise is exact up to."""
    kept = [
        (module, name, getattr(module, name))
        for module in model.modules()
        for name in ("eps", "variance_epsilon")
        if isinstance(getattr(module, name, None), float)
    ]
    for module, name, _ in kept:
        setattr(module, name, 1e-30)
    yield
    for module, name, value in kept:
        setattr(module, name, value)
