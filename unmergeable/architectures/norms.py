"""Which matrices read a norm's output, and nothing else: there its gain may move into them.

A norm multiplies by its gain what its readers multiply by their columns. The gain times c and the
columns over c compute the same, whatever c is: a change of coordinates between tensors, where the
spaces of a declaration change tensors one space at a time. A norm whose output goes elsewhere too,
back into the stream or to the user, has no such freedom. A layer scale is the mirror image: what
writes under it has rows, and a bias, that are over c. So is the kernel of a depthwise convolution,
which has more than one number for each channel.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from unmergeable.gauge.axis_blocks import strands
from unmergeable.gauge.axis_map import Index
from unmergeable.gauge.notation import Atom, Axis, Concatenation, Product, Spaces

if TYPE_CHECKING:
    from unmergeable.architectures.layout import Layout
    from unmergeable.architectures.placing import Placement
    from unmergeable.architectures.rules import NormRule


@dataclass(frozen=True, eq=False)
class Touch:
    """Where a tensor meets a norm's output.

    Attributes:
        name: of the tensor.
        axis: the number of the axis.
        places: for each position of the axis, that of the norm's output, shape (n,); -1 for none.
    """

    name: str
    axis: int
    places: Index


@dataclass(frozen=True, eq=False)
class Norm:
    """One norm of a model whose gain is free.

    Attributes:
        gain: the tensor's name.
        offset: what is added to the stored numbers: 1 where a model stores gains less one.
        axis: the gain's, as declared.
        index: the position in each index space, of the gain's name.
        size: of the output.
        adders: what is added behind the gain and so is multiplied with it: a bias.
        readers: the matrices.
        taps: how many numbers each position of the gain has.
    """

    gain: str
    offset: float
    axis: Axis
    index: Mapping[str, int]
    size: int
    adders: tuple[Touch, ...]
    readers: tuple[Touch, ...]
    taps: int = 1

    @property
    def spaces(self) -> set[str]:
        """The spaces that its output lives in."""
        return set(self.axis.names())


def norms_of(layout: Layout, shapes: Mapping[str, tuple[int, ...]]) -> list[Norm]:
    """The norms of a model whose gains are free: those with readers, and no other use.

    Args:
        layout: of the model.
        shapes: its tensors' dimensions, by name.
    """
    found = []
    for rule in layout.norms:
        members: dict[tuple[tuple[str, int], ...], list[str]] = {}
        stands = standing(rule, layout)
        for name, placement in layout.placements.items():
            if rule.is_norm(placement.rule) and stands(placement):
                members.setdefault(tuple(sorted(placement.index.items())), []).append(name)
        readers = [name for name, p in layout.placements.items() if rule.is_read_by(p.rule)]
        for index, names in members.items():
            norm = _norm(layout, shapes, rule, dict(index), names, readers)
            if norm is not None:
                found.append(norm)
    return found


def standing(rule: NormRule, layout: Layout) -> Callable[[Placement], bool]:
    """Whether a norm is where its rule holds: in any layer, in the last one, in those of a kind."""
    if (kind := rule.of) is not None:
        return lambda placement: kind.has(placement.index[rule.layer])
    if rule.layer:
        last = (layout.spaces[rule.layer].size or 0) - 1
        return lambda placement: placement.index[rule.layer] == last
    return lambda placement: True


def _norm(
    layout: Layout,
    shapes: Mapping[str, tuple[int, ...]],
    rule: NormRule,
    index: Mapping[str, int],
    names: list[str],
    readers: list[str],
) -> Norm | None:
    # A layer scale has one tensor, of any name; so may a norm.
    whole_name = len(names) == 1 and not names[0].endswith((".bias", ".beta"))
    gains = [name for name in names if whole_name or name.endswith((".weight", ".gamma"))]
    if len(gains) != 1 or (len(shapes[gains[0]]) != 1 and not whole_name):
        return None
    (gain,) = gains
    axis, *_ = layout.placements[gain].rule.axes
    handed_out = not index or (rule.layer and not rule.kind)
    if handed_out and layout.exposed & set(axis.names()):
        return None
    size, *taps = shapes[gain]
    whole = Norm(gain, rule.offset, axis, index, size, (), ())

    def touches(chosen: list[str], side: str) -> Iterator[Touch]:
        for name in chosen:
            placement = layout.placements[name]
            if any(placement.index.get(one, at) != at for one, at in index.items()):
                continue
            wanted = {turned(axis, side)}
            if side == "read" and len(shapes[name]) > 1:
                wanted.add(turned(axis, "order"))  # where an activation stops the space's scales
            for number, (other, length) in enumerate(
                zip(placement.rule.axes, shapes[name], strict=True)
            ):
                if taps:
                    places = _channels(other, turned(axis, side), layout.spaces, length, size)
                else:
                    places = _places(other, wanted, layout.spaces, size)
                if places is not None and len(places) == length:
                    yield Touch(name, number, places)

    reading = tuple(touches(readers, rule.side))
    adding = tuple(touches([name for name in names if name != gain], "write"))
    if not reading or len(adding) < len(names) - 1:
        return None
    count = math.prod(taps)
    return Norm(gain, rule.offset, whole.axis, index, size, adding, reading, count)


def turned(axis: Axis, side: str) -> Axis:
    """The same axis on another side; a fixed outer space of a product stays."""
    match axis:
        case Atom(name, _):
            return Atom(name, side)
        case Product(outer, inner):
            return Product(outer, turned(inner, side))
        case Concatenation(parts):
            return Concatenation(tuple(turned(part, side) for part in parts))
    return axis


def _places(axis: Axis, wanted: set[Axis], spaces: Spaces, size: int) -> Index | None:
    """For each position of an axis, its place on another one that it repeats; None if it does not.

    Args:
        axis: of a reader.
        wanted: the norm's, turned to the sides that a reader may be on.
        spaces: with sizes.
        size: of the norm's output.
    """
    every = np.arange(size)
    match axis:
        case _ if axis in wanted:
            return every
        case Concatenation(parts) if wanted.issuperset(parts):
            return np.tile(every, len(parts))
        case Product(outer, inner) if outer in wanted:
            return np.repeat(every, inner.size(spaces) or 1)
        case Product(outer, inner):
            inside = _places(inner, wanted, spaces, size)
            return None if inside is None else np.tile(inside, spaces[outer.name].size or 1)
    return None


def _channels(axis: Axis, wanted: Axis, spaces: Spaces, length: int, size: int) -> Index | None:
    """For each position of an axis, its channel; None if the axis does not have all of them once.

    Args:
        axis: of what writes the channels, and perhaps more: a gate, say.
        wanted: the kernel's, turned to the side of the writers.
        spaces: with sizes.
        length: of the axis.
        size: how many channels there are.
    """
    channels = defaultdict(list)
    for atoms, places in strands(wanted, spaces, size):
        channels[atoms].append(places)
    found = np.full(length, -1)
    for atoms, places in strands(axis, spaces, length):
        if channels[atoms]:  # parts in the same spaces, as queries and keys, stand in one order
            found[places] = channels[atoms].pop(0)
    return None if any(channels.values()) else found
