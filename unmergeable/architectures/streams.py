"""How large a stream is, or a sum that a norm reads: a number that norms take off.

Where all that reads a stream reads it behind a norm, what writes into it may be multiplied by one
number, up to the norms' epsilon. So may tables that are added up and normed before the stream
begins. Where a model reads its words' embeddings as its head, too, the norm before it is divided.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from unmergeable.architectures.directions import is_tied
from unmergeable.architectures.normed import Normed, is_depthwise, normed_of
from unmergeable.architectures.norms import norms_of, standing
from unmergeable.gauge.groups import Permutation
from unmergeable.gauge.notation import sides

if TYPE_CHECKING:
    from unmergeable.architectures.layout import Layout
    from unmergeable.architectures.rules import NormRule, TensorRule


@dataclass(frozen=True)
class Part:
    """A tensor that a stream's size is in.

    Attributes:
        name: of the tensor.
        axis: along which it writes.
        power: of the number that multiplies it.
        offset: what is added to its stored numbers.
    """

    name: str
    axis: int
    power: int
    offset: float


@dataclass(frozen=True)
class Stream:
    """A stream of any size, or a sum of any size before it.

    Attributes:
        space: that it lives in.
        parts: what writes into it, and the norm before a head that is tied.
        gains: those that a sign of its size moves into; empty if its size has none.
    """

    space: str
    parts: tuple[Part, ...]
    gains: tuple[Part, ...] = ()


Shapes = Mapping[str, tuple[int, ...]]


def streams_of(layout: Layout, shapes: Shapes) -> list[Stream]:
    """The streams of a model that only norms read, and the sums of tables that one norm reads.

    Args:
        layout: of the model.
        shapes: its tensors' dimensions, by name.
    """
    handed_out = () if layout.model_class in layout.sized else layout.exposed
    normed = list(normed_of(layout, shapes))
    before = {
        (writer.name, writer.axis)
        for norm in normed
        for writer in norm.writers
        if not writer.passes
    }
    found = [
        _stream(layout, shapes, name, before)
        for name, space in layout.spaces.items()
        if not space.per
        and name not in layout.sized
        and (isinstance(space.group, Permutation) or name in handed_out)
    ]
    free = {norm.gain for norm in norms_of(layout, shapes)} if normed else set()
    found += [_sum(layout, norm, free) for norm in normed if norm.is_sum]
    return [stream for stream in found if stream is not None]


def _sum(layout: Layout, norm: Normed, free: set[str]) -> Stream | None:
    """What one norm reads, with the norm before a head that one of the tables is, too."""
    parts = [
        Part(one.name, one.axis, 1, _offset(layout, layout.placements[one.name].rule))
        for one in norm.writers
    ]
    if is_tied(layout) and any(_is_vocab(layout, one.name) for one in norm.writers):
        own = layout.placements[norm.gains[0]].rule
        last = [
            Part(name, 0, -1, rule.offset * (side == "order"))
            for rule in layout.norms
            if rule.readers and not rule.is_norm(own) and not _is_read(layout, rule, norm.space)
            for stands in (standing(rule, layout),)
            for name, placement in layout.placements.items()
            if rule.is_norm(placement.rule) and stands(placement)
            for axis in placement.rule.axes
            for side in sides(axis, norm.space)
        ]
        if not last:
            return None
        parts += last
    gains = tuple(Part(name, 0, 1, norm.offset) for name in norm.gains)
    signed = norm.centred and not free & set(norm.gains)
    return Stream(norm.space, tuple(parts), gains if signed else ())


def _is_vocab(layout: Layout, name: str) -> bool:
    return "vocab" in _names(layout.placements[name].rule)


def _stream(
    layout: Layout, shapes: Shapes, space: str, before: set[tuple[str, int]]
) -> Stream | None:
    """What writes into a stream, but for what is normed before it does."""
    found = {
        name: [(n, side) for n, axis in enumerate(p.rule.axes) for side in sides(axis, space)]
        for name, p in layout.placements.items()
    }
    rules = [rule for rule in layout.norms if rule.readers and rule.side == "read"]
    # One that stands in layers of a kind is none elsewhere; one of the last layer reads in all.
    kinds = [(rule, standing(rule, layout) if rule.kind else None) for rule in rules]
    norms = {
        name: rule
        for name, p in layout.placements.items()
        for rule, stands in kinds
        if found[name] and rule.is_norm(p.rule) and (stands is None or stands(p))
    }
    reading = [(rule, layout.placements[name].index) for name, rule in norms.items()]
    tied = not any(_is_vocab(layout, name) for name, _ in before if found[name])
    parts = []
    for name, placement in layout.placements.items():
        for axis, side in found[name]:
            if (name, axis) in before:
                continue
            if side != "write" and is_depthwise(shapes[name], axis):
                parts.append(Part(name, axis, -1, 0.0))
            elif side == "read":
                if not any(
                    rule.is_read_by(placement.rule) and index.items() <= placement.index.items()
                    for rule, index in reading
                ):
                    return None
            elif name not in norms:
                elsewhere = placement.rule.begins_with_any(layout.sized)
                if not elsewhere and not _is_scaled(layout, placement.rule):
                    parts.append(Part(name, axis, 1, _offset(layout, placement.rule)))
            elif tied and not _is_read(layout, norms[name], space):
                parts.append(Part(name, axis, -1, norms[name].offset * (side == "order")))
    return Stream(space, tuple(parts)) if norms and parts else None


def _is_read(layout: Layout, rule: NormRule, space: str) -> bool:
    """Whether what reads a norm is stored, or its user; else the head is tied to embeddings."""
    return space in layout.exposed or any(
        rule.is_read_by(p.rule) and space in _names(p.rule) for p in layout.placements.values()
    )


def _names(rule: TensorRule) -> set[str]:
    return {name for axis in rule.axes for name in axis.names()}


def _is_scaled(layout: Layout, row: TensorRule) -> bool:
    """Whether a layer scale stands behind what a tensor writes."""
    scales = [rule for rule in layout.norms if rule.side == "write" and rule.is_read_by(row)]
    return any(rule.is_norm(p.rule) for rule in scales for p in layout.placements.values())


def _offset(layout: Layout, row: TensorRule) -> float:
    """What is added to the stored numbers, if they are a gain."""
    return next((rule.offset for rule in layout.norms if rule.is_norm(row)), 0.0)
