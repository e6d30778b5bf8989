"""How large a stream is: a number that norms take off, up to their epsilon.

Where all that reads a stream reads it behind a norm, what writes into it may be multiplied by one
number. Where a model reads its words' embeddings as its head, too, the norm before it is divided.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

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
    """A stream of any size.

    Attributes:
        space: that it lives in.
        parts: what writes into it, and the norm before a head that is tied.
    """

    space: str
    parts: tuple[Part, ...]


def streams_of(layout: Layout) -> list[Stream]:
    """The streams of a model that only norms read."""
    handed_out = () if layout.model_class in layout.sized else layout.exposed
    found = (
        _stream(layout, name)
        for name, space in layout.spaces.items()
        if not space.per
        and name not in layout.sized
        and (isinstance(space.group, Permutation) or name in handed_out)
    )
    return [stream for stream in found if stream is not None]


def _stream(layout: Layout, space: str) -> Stream | None:
    found = {
        name: [(n, side) for n, axis in enumerate(p.rule.axes) for side in sides(axis, space)]
        for name, p in layout.placements.items()
    }
    rules = [rule for rule in layout.norms if rule.readers and rule.side == "read"]
    norms = {
        name: rule
        for name, p in layout.placements.items()
        for rule in rules
        if found[name] and rule.is_norm(p.rule)
    }
    reading = [(rule, layout.placements[name].index) for name, rule in norms.items()]
    parts = []
    for name, placement in layout.placements.items():
        for axis, side in found[name]:
            if side == "read":
                if not any(
                    rule.is_read_by(placement.rule) and index.items() <= placement.index.items()
                    for rule, index in reading
                ):
                    return None
            elif name not in norms:
                elsewhere = placement.rule.begins_with_any(layout.sized)
                if not elsewhere and not _is_scaled(layout, placement.rule):
                    parts.append(Part(name, axis, 1, _offset(layout, placement.rule)))
            elif not _is_read(layout, norms[name], space):
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
    return any(rule.side == "write" and rule.is_read_by(row) for rule in layout.norms)


def _offset(layout: Layout, row: TensorRule) -> float:
    """What is added to the stored numbers, if they are a gain."""
    return next((rule.offset for rule in layout.norms if rule.is_norm(row)), 0.0)
