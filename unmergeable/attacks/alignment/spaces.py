"""Which spaces stand inside others, by an architecture's declaration."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from unmergeable.architectures.layout import Layout
from unmergeable.gauge.notation import Axis, Concatenation, Product


def inner_spaces(layout: Layout) -> set[str]:
    """The spaces inside heads, such as queries and keys, or values and outputs.

    They are one per head, which has no fixed place as a layer has or whose place in its layer is
    fixed, and do not number copies of another space themselves, as the query heads of a key-value
    group do. What is inside an expert is none of them.
    """
    spaces = layout.movable()
    local = {
        name
        for name, space in spaces.items()
        if (len(space.per) > 1 or (space.per and space.per[0] in spaces))
        and not layout.numbering & {name, *space.per}
    }
    axes = [axis for placement in layout.placements.values() for axis in placement.rule.axes]
    return local - {name for axis in axes for name in _outer(axis)}


def shared_spaces(layout: Layout) -> set[str]:
    """The spaces that all heads of a layer share, such as values behind which they share a gain."""
    movable = layout.movable()
    axes = [axis for placement in layout.placements.values() for axis in placement.rule.axes]
    return {
        name
        for axis in axes
        for name, outer in _inside(axis)
        if len(movable[name].per if name in movable else ()) == 1
        and outer in movable
        and movable[outer].per
        and not layout.numbering & {name, outer}
    }


def names_on(axes: Iterable[Axis]) -> set[str]:
    """The spaces on some axes."""
    return {name for axis in axes for name in axis.names()}


def beside(axis: Axis, space: str) -> Iterator[str]:
    """The spaces on the parts of an axis that a space is on; on all of it if it is on none."""
    parts = axis.parts if isinstance(axis, Concatenation) else (axis,)
    own = [part for part in parts if space in part.names()]
    for part in own or parts:
        yield from part.names()


def _inside(axis: Axis) -> Iterator[tuple[str, str]]:
    """The spaces that stand inside others on an axis, each with the one around it."""
    if isinstance(axis, Product):
        yield from ((name, axis.outer.name) for name in axis.inner.names())
        yield from _inside(axis.inner)
    elif isinstance(axis, Concatenation):
        for part in axis.parts:
            yield from _inside(part)


def _outer(axis: Axis) -> Iterator[str]:
    """The spaces that number copies of others on an axis."""
    if isinstance(axis, Product):
        yield axis.outer.name
        yield from _outer(axis.inner)
    elif isinstance(axis, Concatenation):
        for part in axis.parts:
            yield from _outer(part)
