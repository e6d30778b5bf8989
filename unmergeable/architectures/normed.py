"""What writes into a norm, and into nothing else: there a number moves that the norm takes off.

A norm takes the length off what it reads, up to its epsilon. So what writes there may be multiplied
by any number, by the same one all that is added up before the norm. A sign passes the norm and
moves into its gain: position by position, or all at once where the norm subtracts a mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from unmergeable.architectures.norms import norms_of, turned
from unmergeable.gauge.axis_blocks import strands
from unmergeable.gauge.axis_map import Index
from unmergeable.gauge.notation import Atom, Axis, reads

if TYPE_CHECKING:
    from unmergeable.architectures.layout import Layout
    from unmergeable.architectures.rules import NormRule

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Places:
    """Which scale each number of a tensor has.

    Attributes:
        name: of the tensor.
        offset: what is added to its stored numbers.
        scales: for each of its numbers in order, the number of its scale.
    """

    name: str
    offset: float
    scales: Index


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows whose length a norm takes off, and whose signs its gains share.

    Attributes:
        matrix: the matrix and for each of its rows, the number of its norm.
        others: its bias, the same.
        norms: how many norms there are; rows of higher numbers have a length of their own.
        signs: for each row, the number of its sign.
        flips: how many signs are free; higher numbers are none.
        gains: for each number of the gains, that of its sign.
        centred: whether the norms subtract a mean.
        axis: of the matrix, along which its rows are counted.
    """

    matrix: Places
    others: tuple[Places, ...]
    norms: int
    signs: Index
    flips: int
    gains: tuple[Places, ...]
    centred: bool
    axis: int = 0

    @property
    def names(self) -> list[str]:
        """All of its tensors."""
        return [places.name for places in (self.matrix, *self.others, *self.gains)]


@dataclass(frozen=True, eq=False)
class Writer:
    """A tensor that writes what a norm reads.

    Attributes:
        name: of the tensor.
        axis: along which it writes.
        places: for each position of that axis, that of the norm; -1 if it writes elsewhere.
        passes: whether it reads along that axis, too, position by position: a convolution with one
            kernel for each channel.
    """

    name: str
    axis: int
    places: Index
    passes: bool = False


@dataclass(frozen=True, eq=False)
class Normed:
    """A norm, or some norms of the same sum, with all that writes what they read.

    Attributes:
        gains: the tensors' names.
        offset: what is added to their stored numbers.
        space: that they live in.
        size: positions of that space.
        writers: all of them.
        each: whether each position has a norm of its own.
        centred: whether the norms subtract a mean over the positions.
        is_sum: whether tables and vectors are added up there, that read nothing themselves.
    """

    gains: tuple[str, ...]
    offset: float
    space: str
    size: int
    writers: tuple[Writer, ...]
    each: bool
    centred: bool
    is_sum: bool


def is_depthwise(shape: tuple[int, ...], axis: int) -> bool:
    """Whether a convolution has one kernel for each position of an axis, and writes where it reads.

    Args:
        shape: of the tensor.
        axis: along which it reads.
    """
    return axis == 0 and len(shape) > 2 and shape[1] == 1


def instances_of(layout: Layout, rule: NormRule) -> dict[tuple[tuple[str, int], ...], list[str]]:
    """The names of a norm's gain and bias, by the indices that select one of its instances."""
    found: dict[tuple[tuple[str, int], ...], list[str]] = {}
    for name, placement in layout.placements.items():
        if rule.is_norm(placement.rule):
            found.setdefault(tuple(sorted(placement.index.items())), []).append(name)
    return found


def normed_of(layout: Layout, shapes: Shapes) -> Iterator[Normed]:
    """The norms of a model of which a declaration says what writes there.

    Args:
        layout: of the model.
        shapes: its tensors' dimensions, by name.
    """
    for rule in layout.normed:
        writers = [
            name
            for name, placement in layout.placements.items()
            if rule.is_read_by(placement.rule) and not rule.is_norm(placement.rule)
        ]
        for index, names in instances_of(layout, rule).items():
            gains = tuple(name for name in names if not name.endswith((".bias", ".beta")))
            found = _normed(layout, shapes, rule, dict(index), names, gains, writers)
            if found is not None:
                yield found


def rows_behind(layout: Layout, shapes: Shapes) -> list[Rows]:
    """The rows in front of the norms that stand behind matrices.

    Args:
        layout: of the model.
        shapes: its tensors' dimensions, by name.
    """
    normed = [norm for norm in normed_of(layout, shapes) if not norm.is_sum]
    free = {norm.gain for norm in norms_of(layout, shapes)} if normed else set()
    return [_rows(norm, shapes, free) for norm in normed]


def _rows(norm: Normed, shapes: Shapes, free: set[str]) -> Rows:
    (matrix,) = (one for one in norm.writers if len(shapes[one.name]) > 1)
    norms = norm.size if norm.each else 1
    # A sign between rows and gains is one between gains and readers, where those are free.
    flips = 0 if free & set(norm.gains) else 1 if norm.centred else norm.size

    def numbered(places: Index, size: int) -> Index:
        numbers = places if size == norm.size else np.zeros_like(places)
        return np.where((places < 0) | (size == 0), size, numbers)

    return Rows(
        Places(matrix.name, 0.0, numbered(matrix.places, norms)),
        tuple(
            Places(one.name, 0.0, numbered(one.places, norms))
            for one in norm.writers
            if one is not matrix
        ),
        norms,
        numbered(matrix.places, flips),
        flips,
        tuple(
            Places(name, norm.offset, numbered(np.arange(norm.size), flips))
            for name in (norm.gains if flips else ())
        ),
        norm.centred,
        matrix.axis,
    )


def _normed(
    layout: Layout,
    shapes: Shapes,
    rule: NormRule,
    index: Mapping[str, int],
    own: list[str],
    gains: tuple[str, ...],
    names: list[str],
) -> Normed | None:
    if not gains:
        return None
    axis, size = layout.placements[gains[0]].rule.axes[-1], shapes[gains[0]][-1]
    assert isinstance(axis, Atom)
    wanted = {(axis,), (turned(axis, "write"),)}
    through = {turned(axis, "read"), turned(axis, "order")}
    writers, read = [], False
    for name in names:
        placement = layout.placements[name]
        if not index.items() <= placement.index.items():
            continue
        for number, (other, length) in enumerate(
            zip(placement.rule.axes, shapes[name], strict=True)
        ):
            passes = other in through and is_depthwise(shapes[name], number)
            places = np.arange(length) if passes else _places(layout, other, wanted, length)
            if (places >= 0).any():
                writers.append(Writer(name, number, places, passes))
                read |= passes
        read |= any(reads(other) for other in placement.rule.axes)
    if not writers:
        return None
    # Of a space of one layer, a bias says that its norm is one of those that take the mean off.
    centred = (axis.name in layout.centred or len(own) > len(gains)) and not rule.each
    is_sum = not rule.each and not read
    return Normed(gains, rule.offset, axis.name, size, tuple(writers), rule.each, centred, is_sum)


def _places(layout: Layout, axis: Axis, wanted: set[tuple[Axis]], length: int) -> Index:
    """For each position of an axis, its place in a space; -1 where it is in another one."""
    found = np.full(length, -1)
    for atoms, places in strands(axis, layout.spaces, length):
        if atoms in wanted:
            found[places] = np.arange(len(places))
    return found
