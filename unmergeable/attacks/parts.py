"""The parts of a model as an attack cuts it: told from what its axes are, never from names."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Literal, get_args

from unmergeable.architectures.layout import Layout
from unmergeable.gauge.notation import Axis, Concatenation, Product, sides

Part = Literal["attention", "FFN", "norms and biases", "embeddings", "head"]
PARTS: tuple[Part, ...] = get_args(Part)


def residual(layout: Layout) -> str:
    """The space of the residual stream: the one that the most tensors share across the layers."""
    used = Counter(
        name
        for placement in layout.placements.values()
        for axis in placement.rule.axes
        for name in set(axis.names())
        if not layout.spaces[name].per
    )
    return used.most_common(1)[0][0]


def part(layout: Layout, name: str) -> Part:
    """Which part of the model a tensor belongs to.

    Matrices with an axis for each head are attention's, and so are those that lead to them through
    a latent; the layers' others, experts and their router among them, are the FFN's. Outside the
    layers, what writes into the residual stream embeds, and the rest is head. Vectors are norms and
    biases, wherever they stand; what is only the bias of a head goes with it.
    """
    placement = layout.placements[name]
    axes, stream = placement.rule.axes, residual(layout)
    inside = place(layout, name) is not None
    if len(axes) == 1 and (inside or stream in axes[0].names()):
        return "norms and biases"
    if inside:
        names = {space for axis in axes for space in axis.names()}
        return "attention" if names & _attended(layout) else "FFN"
    found = {side for axis in axes for side in sides(axis, stream)}
    return "embeddings" if "write" in found and "read" not in found else "head"


def norm_vectors(layout: Layout) -> set[str]:
    """The vectors of a model that are a norm's: its gain, and a bias that stands beside it.

    A bias that stands beside a matrix is not.
    """
    matrices = {
        name.rpartition(".")[0]
        for name, placement in layout.placements.items()
        if len(placement.rule.axes) > 1
    }
    return {
        name
        for name, placement in layout.placements.items()
        if len(placement.rule.axes) == 1 and name.rpartition(".")[0] not in matrices
    }


def place(layout: Layout, name: str) -> tuple[str, int] | None:
    """The stack of layers that a tensor is in, and which of them; None for one in no layer.

    Most models have one stack, "layer"; a decoder behind an encoder, or eyes, have their own.
    """
    index = layout.placements[name].index.items()
    return next(((stack, at) for stack, at in index if stack not in layout.numbering), None)


def layers(layout: Layout, stack: str = "") -> list[list[str]]:
    """The tensors of each layer, in the order of computation, one stack after the other.

    Args:
        layout: of the model.
        stack: the only one that is wanted.
    """
    found: dict[tuple[str, int], list[str]] = defaultdict(list)
    for name in layout.placements:
        at = place(layout, name)
        if at is not None and at[0] == (stack or at[0]):
            found[at].append(name)
    order = list(layout.spaces)
    return [found[at] for at in sorted(found, key=lambda at: (order.index(at[0]), at[1]))]


def writers(layout: Layout) -> dict[str, int]:
    """The matrices that write into the residual stream from a space inside their layer.

    Returns:
        By name, which of the two axes is the residual stream: 0 in (out, in) storage.
    """
    stream = residual(layout)
    found = {}
    for name, placement in layout.placements.items():
        axes = placement.rule.axes
        if "layer" not in placement.index or len(axes) != 2:
            continue
        for out in (0, 1):
            inner = list(axes[1 - out].names())
            if "write" in sides(axes[out], stream) and stream not in inner:
                found[name] = out
    return found


def _attended(layout: Layout) -> set[str]:
    """The spaces of a layer that some matrix with an axis for each head lives in."""
    rules = {id(place.rule): place.rule for place in layout.placements.values()}.values()
    return {
        name
        for rule in rules
        if any(_has_heads(axis, layout) for axis in rule.axes)
        for axis in rule.axes
        for name in axis.names()
        if layout.spaces[name].per
    }


def _has_heads(axis: Axis, layout: Layout) -> bool:
    """Whether an axis is divided among what has spaces of its own, and is no expert."""
    if isinstance(axis, Concatenation):
        return any(_has_heads(part, layout) for part in axis.parts)
    if not isinstance(axis, Product) or axis.outer.name in layout.numbering:
        return False
    return any(axis.outer.name in space.per for space in layout.spaces.values())
