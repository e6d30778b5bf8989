"""What a space is for, read from its name, and what a model's tensors show of it.

The last part of a space's name says its role, whatever the family: `qk` and `vo` inside heads,
`ffn` and `gated` for neurons (`cross_qk`, `decoder_ffn`). Which rows or columns of a tensor belong
to it is read from the declaration, so that fused and transposed storage needs no names here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from unmergeable.architectures.layout import Layout
from unmergeable.gauge.axis_blocks import blocks
from unmergeable.gauge.axis_map import Float
from unmergeable.gauge.notation import Space

HEADS = ("qk", "vo")
NEURONS = ("ffn", "gated")


@dataclass(frozen=True, eq=False)
class Shown:
    """What one tensor shows of one instance of a space.

    Attributes:
        side: "write", "read" or "order".
        rows: shape (n, m), one row per position of the space.
        matrix: whether the tensor is one, not a bias or a gain.
    """

    side: str
    rows: Float
    matrix: bool


def role(space: Space) -> str:
    """The last part of its name."""
    return space.name.rsplit("_", 1)[-1]


def spaces_for(layout: Layout, *roles: str) -> list[Space]:
    """The movable spaces with one of these roles, in the order of the data file."""
    return [space for space in layout.movable().values() if role(space) in roles]


def sibling(layout: Layout, space: Space, wanted: str) -> Space | None:
    """The space of another role inside the same heads: `cross_vo` for `cross_qk`."""
    return layout.spaces.get(space.name.removesuffix(role(space)) + wanted)


def shown(
    layout: Layout, space: Space, instance: tuple[int, ...], values: Callable[[str], Float]
) -> Iterator[Shown]:
    """All that touches one instance of a space, tensor by tensor, in the order of their names.

    Args:
        layout: the model's.
        space: which.
        instance: its index, one number for each of `space.per`.
        values: a tensor by name, in its shape.
    """
    at = dict(zip(space.per, instance, strict=True))
    for name, placement in sorted(layout.placements.items()):
        axes = placement.rule.axes
        if not any(space.name in axis.names() for axis in axes):
            continue
        if any(placement.index.get(outer, place) != place for outer, place in at.items()):
            continue
        for block in blocks(axes, layout.spaces, values(name)):
            if block.names().count(space.name) != 1:
                continue
            for outer, place in at.items():
                if outer not in placement.index:
                    block = block.at(outer, place)
            side = block.atoms[block.names().index(space.name)].side
            yield Shown(side, block.rows(space.name), len(axes) > 1)
