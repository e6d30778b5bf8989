"""LayerNorms behind blocks, each on the sum of its block and of the stream that the block read.

What a block writes goes into that norm and nowhere else. What the norm gives is read by the next
block, and is added to what that one writes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from unmergeable.architectures.normed import instances_of
from unmergeable.architectures.norms import Touch, turned

if TYPE_CHECKING:
    from unmergeable.architectures.layout import Layout
    from unmergeable.architectures.placing import Placement
    from unmergeable.architectures.rules import NormRule

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class PostNorm:
    """A LayerNorm behind a block.

    Attributes:
        names: of its gain, and of its bias if it has one.
        offset: what is added to the stored gain.
        readers: what in its block reads the stream before it.
        writers: what in its block writes into it.
    """

    names: tuple[str, ...]
    offset: float
    readers: tuple[Touch, ...]
    writers: tuple[Touch, ...]


def post_norms_of(layout: Layout, shapes: Shapes) -> Iterator[PostNorm]:
    """The norms behind blocks of a model.

    Args:
        layout: of the model.
        shapes: its tensors' dimensions, by name.
    """
    for rule in layout.post_norms:
        block = [
            name
            for name, placement in layout.placements.items()
            if rule.is_read_by(placement.rule) and not _is_norm(layout, placement)
        ]
        for index, names in sorted(instances_of(layout, rule).items()):
            inside = [n for n in block if dict(index).items() <= layout.placements[n].index.items()]
            yield _post_norm(layout, shapes, rule, names, inside)


def _is_norm(layout: Layout, placement: Placement) -> bool:
    return any(rule.is_norm(placement.rule) for rule in layout.post_norms)


def _post_norm(
    layout: Layout, shapes: Shapes, rule: NormRule, names: list[str], block: list[str]
) -> PostNorm:
    names = sorted(names, key=lambda name: name.endswith((".bias", ".beta")))
    own = layout.placements[names[0]].rule.axes[0]

    def touches(side: str) -> tuple[Touch, ...]:
        return tuple(
            Touch(name, number, np.arange(shapes[name][number]))
            for name in block
            for number, axis in enumerate(layout.placements[name].rule.axes)
            if axis == turned(own, side)
        )

    return PostNorm(tuple(names), rule.offset, touches("read"), touches("write"))
