"""A tensor as blocks with one named dimension per space: what a fit looks at.

The axis `(group query qk)` of a tensor becomes three dimensions; `[(head qk) (head vo)]` becomes
two blocks. An attack then asks for all that touches one space, whatever way it is stored.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from unmergeable.gauge.axis_map import Float, Index
from unmergeable.gauge.notation import Atom, Axis, Concatenation, Product, Spaces


@dataclass(frozen=True, eq=False)
class Block:
    """A part of a tensor.

    Attributes:
        atoms: the space, with its side, on each dimension.
        values: one dimension per atom.
    """

    atoms: tuple[Atom, ...]
    values: Float

    def names(self) -> list[str]:
        """The space on each dimension."""
        return [atom.name for atom in self.atoms]

    def at(self, name: str, position: int) -> Block:
        """The slice at one position of an index space."""
        axis = self.names().index(name)
        rest = self.atoms[:axis] + self.atoms[axis + 1 :]
        return Block(rest, np.take(self.values, position, axis))

    def rows(self, *names: str) -> Float:
        """The values with the named dimensions first, and all others folded into the last."""
        order = [self.names().index(name) for name in names]
        moved = np.moveaxis(self.values, order, range(len(order)))
        return moved.reshape(*moved.shape[: len(order)], -1)


def blocks(axes: Sequence[Axis], spaces: Spaces, tensor: Float) -> Iterator[Block]:
    """Takes a tensor apart.

    Args:
        axes: as declared, one per dimension.
        spaces: with sizes; a space of any size takes the tensor's.
        tensor: its values.
    """
    found = [strands(axis, spaces, size) for axis, size in zip(axes, tensor.shape, strict=True)]
    for chosen in itertools.product(*found):
        atoms = tuple(atom for names, _ in chosen for atom in names)
        values = tensor[np.ix_(*(places.reshape(-1) for _, places in chosen))]
        shape = [size for _, places in chosen for size in places.shape]
        yield Block(atoms, values.reshape(shape))


def strands(axis: Axis, spaces: Spaces, size: int) -> list[tuple[tuple[Atom, ...], Index]]:
    """The parts of an axis of that size, empty ones left out.

    Returns:
        for each part its spaces, and the positions it takes, one dimension per space.
    """
    if isinstance(axis, Atom):
        return [((axis,), np.arange(size))]
    if isinstance(axis, Product):
        outer = axis.outer.size(spaces) or 1
        width = size // outer
        return [
            ((axis.outer, *atoms), np.add.outer(np.arange(outer) * width, places))
            for atoms, places in strands(axis.inner, spaces, width)
        ]
    if not isinstance(axis, Concatenation):
        raise TypeError(f"{axis} has no parts: the weights whose scales live there do")
    found, start = [], 0
    for part in axis.parts:
        known = part.size(spaces)
        width = size // len(axis.parts) if known is None else known
        if width:
            found += [(atoms, start + places) for atoms, places in strands(part, spaces, width)]
        start += width
    return found
