"""The tiny language that says which space lives on which axis of a tensor.

    vocab residual                     one space per axis
    (group query qk) residual*         an axis that is a product: for each group, for each query ...
    residual* [(head qk) (head vo)]    an axis that is a concatenation, as in fused projections
    |ffn| residual*                    an axis that follows the order of a space, not its scales

A bare name is an axis that writes into the space and moves by the element g. A starred name reads
from the space and moves by the inverse transpose of g, so that every product over the space stays
what it was. Bars take the permutation alone: norm gains, and the gate of a gated FFN.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np

from unmergeable.errors import UnsupportedError
from unmergeable.gauge.axis_map import AxisMap
from unmergeable.gauge.groups import Group


@dataclass(frozen=True)
class Space:
    """A named index set that an axis of a tensor lives in.

    Attributes:
        name: as written in the data files.
        size: number of positions; None where any size is accepted (fixed spaces only).
        group: what the architecture cannot see; None for a fixed space.
        fixed: why nothing can move here; empty for a space with a group.
        per: the index spaces that select an instance, outermost first: one V/O space per layer and
            group, say.
    """

    name: str
    size: int | None
    group: Group | None
    fixed: str = ""
    per: tuple[str, ...] = ()


Spaces = Mapping[str, Space]
# An element for each instance of each space: what a key draws, and what an attack fits.
Gauge = Callable[[Space, tuple[int, ...]], AxisMap]


@dataclass(frozen=True)
class Atom:
    """One space, with the side it is on: 'write', 'read' (starred) or 'order' (in bars)."""

    name: str
    side: str = "write"

    def names(self) -> Iterator[str]:
        """The names of the spaces on this axis."""
        yield self.name

    def size(self, spaces: Spaces) -> int | None:
        """Length of the axis, None if any."""
        return spaces[self.name].size

    def map(self, spaces: Spaces, gauge: Gauge, index: Mapping[str, int]) -> AxisMap:
        """The change of coordinates of this axis for the instance that `index` selects."""
        space = spaces[self.name]
        element = gauge(space, tuple(index[name] for name in space.per))
        if self.side == "order":
            return element.order
        return element.dual if self.side == "read" else element

    def __str__(self) -> str:
        return {"write": "{}", "read": "{}*", "order": "|{}|"}[self.side].format(self.name)


@dataclass(frozen=True)
class Product:
    """`(outer inner)`: for each position of the outer space, a copy of the inner axis."""

    outer: Atom
    inner: Axis

    def names(self) -> Iterator[str]:
        """The names of the spaces on this axis."""
        yield from self.outer.names()
        yield from self.inner.names()

    def size(self, spaces: Spaces) -> int | None:
        """Length of the axis, None if any."""
        sizes = self.outer.size(spaces), self.inner.size(spaces)
        return None if None in sizes else math.prod(size for size in sizes if size is not None)

    def map(self, spaces: Spaces, gauge: Gauge, index: Mapping[str, int]) -> AxisMap:
        """The wreath product's element.

        Each old outer position has its own inner map; they stand in the new outer order.
        """
        outer = self.outer.map(spaces, gauge, index)
        scale = outer.scale
        if scale is None:
            raise ValueError(f"the outer space {self.outer} of a product cannot be mixed")
        inner = [
            self.inner.map(spaces, gauge, {**index, self.outer.name: old})
            for old in range(outer.size)
        ]
        if (scale != 1).any():  # in the new order, as the copies below
            scaled = {
                old: AxisMap(inner[old].source, tuple(run * by for run in inner[old].factors))
                for old, by in zip(outer.source, scale, strict=True)
            }
            inner = [scaled[old] for old in range(outer.size)]
        width = inner[0].size
        joined = AxisMap.joined([inner[old] for old in outer.source])
        # `joined` numbers the new blocks; send each to where its old block stands.
        shift = (outer.source - np.arange(outer.size)) * width
        return AxisMap(joined.source + np.repeat(shift, width), joined.factors)

    def __str__(self) -> str:
        inner = str(self.inner)
        flat = inner[1:-1] if isinstance(self.inner, Product) else inner
        return f"({self.outer} {flat})"


@dataclass(frozen=True)
class Concatenation:
    """`[a b c]`: the axes one after the other."""

    parts: tuple[Axis, ...]

    def names(self) -> Iterator[str]:
        """The names of the spaces on this axis."""
        for part in self.parts:
            yield from part.names()

    def size(self, spaces: Spaces) -> int | None:
        """Length of the axis, None if any."""
        sizes = [part.size(spaces) for part in self.parts]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    def map(self, spaces: Spaces, gauge: Gauge, index: Mapping[str, int]) -> AxisMap:
        """The direct sum of the parts' maps."""
        return AxisMap.joined([part.map(spaces, gauge, index) for part in self.parts])

    def __str__(self) -> str:
        return f"[{' '.join(map(str, self.parts))}]"


@dataclass(frozen=True)
class Blocks:
    """`axis/128`: one position for each run of this many positions of another axis.

    Scales of block-quantised weights live on such axes. With runs of one it is the order of the
    axis alone, where scales of single rows live. Data files do not write it: it is made from the
    axes of the weights.
    """

    axis: Axis
    block: int

    def names(self) -> Iterator[str]:
        """The names of the spaces on the axis of the weights."""
        yield from self.axis.names()

    def size(self, spaces: Spaces) -> int | None:
        """Length of the axis, None if any."""
        size = self.axis.size(spaces)
        return None if size is None else -(-size // self.block)

    def map(self, spaces: Spaces, gauge: Gauge, index: Mapping[str, int]) -> AxisMap:
        """The order of the blocks.

        Raises:
            UnsupportedError: an element that tears a block apart, or mixes weights.
        """
        inner = self.axis.map(spaces, gauge, index)
        blocks = inner.source // self.block
        source = blocks[:: self.block]
        whole = (blocks == np.repeat(source, self.block)[: inner.size]).all()
        if inner.scale is None or not whole or len(np.unique(source)) < len(source):
            raise UnsupportedError(
                f"what was drawn for {self.axis} parts or mixes weights that share a scale, "
                f"{self.block} at a time. Use the lossless lock (--set kind=lossless), or "
                "dequantise the model first."
            )
        return AxisMap.monomial(source)

    def __str__(self) -> str:
        return f"{self.axis}/{self.block}"


Axis = Atom | Product | Concatenation | Blocks


def sides(axis: Axis, space: str) -> tuple[str, ...]:
    """The sides of a space that an axis is on, once each; scales of blocks are on none.

    Examples:
        >>> sides(parse("(head vo) residual*")[1], "residual")
        ('read',)
    """
    match axis:
        case Atom(name, side):
            return (side,) if name == space else ()
        case Product(outer, inner):
            parts: tuple[Axis, ...] = (outer, inner)
        case Concatenation(parts):
            pass
        case Blocks():
            return ()
    return tuple(dict.fromkeys(side for part in parts for side in sides(part, space)))


def reads(axis: Axis) -> bool:
    """Whether an axis, or a part of it, reads from some space."""
    return any("read" in sides(axis, space) for space in axis.names())


def number(axis: Axis, index: Mapping[str, int], spaces: Spaces) -> int:
    """The place on an axis, a space or a product of spaces, of one position in each of them."""
    place = 0
    for name in axis.names():
        place = place * (spaces[name].size or 1) + index[name]
    return place


def split(axis: Axis, place: int, spaces: Spaces) -> dict[str, int]:
    """The position in each space of an axis, from the place on it: `number` undone."""
    outer, *inner = axis.names()
    index = {}
    for name in reversed(inner):
        place, index[name] = divmod(place, spaces[name].size or 1)
    return {outer: place, **index}


_TOKEN = re.compile(r"\s*(?:(?P<mark>[()\[\]])|\|(?P<order>\w+)\||(?P<name>\w+)(?P<star>\*?))")


@cache
def parse(text: str) -> tuple[Axis, ...]:
    """Reads the axes of one tensor.

    Args:
        text: for example "(group query qk) residual*".

    Returns:
        One axis per dimension of the tensor.

    Raises:
        ValueError: text that is not in the language, with the place.
    """
    tokens: list[re.Match[str]] = []
    end = 0
    while text[end:].strip():
        match = _TOKEN.match(text, end)
        if match is None:
            raise ValueError(f"cannot read {text!r} from {text[end:]!r} on")
        tokens.append(match)
        end = match.end()
    axes, rest = _axes(tokens, text, closing=None)
    if rest or not axes:
        raise ValueError(f"unbalanced brackets or no axis in {text!r}")
    return axes


def rename(axis: Axis, names: Mapping[str, str]) -> Axis:
    """The same axis with other names of spaces."""
    match axis:
        case Atom(name, side):
            return Atom(names.get(name, name), side)
        case Product(Atom(name, side), inner):
            return Product(Atom(names.get(name, name), side), rename(inner, names))
        case Concatenation(parts):
            return Concatenation(tuple(rename(part, names) for part in parts))
        case Blocks(inner, block):
            return Blocks(rename(inner, names), block)


def _axes(
    tokens: list[re.Match[str]], text: str, closing: str | None
) -> tuple[tuple[Axis, ...], list[re.Match[str]]]:
    """Reads axes up to a closing mark; returns them and the tokens after it."""
    axes: list[Axis] = []
    while tokens:
        token, tokens = tokens[0], tokens[1:]
        mark = token["mark"]
        if mark is None:
            side = "order" if token["order"] else "read" if token["star"] else "write"
            axes.append(Atom(token["order"] or token["name"], side))
        elif mark == closing:
            return tuple(axes), tokens
        elif mark in "([":
            inner, tokens = _axes(tokens, text, closing=")" if mark == "(" else "]")
            axes.append(_product(inner, text) if mark == "(" else Concatenation(inner))
        else:
            raise ValueError(f"{mark!r} closes nothing in {text!r}")
    if closing is not None:
        raise ValueError(f"{closing!r} is missing in {text!r}")
    return tuple(axes), tokens


def _product(parts: tuple[Axis, ...], text: str) -> Axis:
    if len(parts) < 2 or not all(isinstance(part, Atom) for part in parts[:-1]):
        raise ValueError(f"a product needs names before its last axis in {text!r}")
    axis = parts[-1]
    for outer in reversed(parts[:-1]):
        assert isinstance(outer, Atom)
        axis = Product(outer, axis)
    return axis
