"""Vectors that may be added to biases, as other biases take them up or nothing sees them.

A bias of a LayerNorm goes through the matrices that read it into their own biases. Attention
weights sum to one, so a bias of the values goes through the output's matrix into the output's bias.
A bias of the keys adds the same to all scores of a query, which the softmax does not see, where no
position turns it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from unmergeable.architectures.norms import Norm
from unmergeable.gauge.axis_blocks import strands
from unmergeable.gauge.axis_map import Index
from unmergeable.gauge.groups import Linear
from unmergeable.gauge.notation import Atom

if TYPE_CHECKING:
    from unmergeable.architectures.layout import Layout

Shapes = Mapping[str, tuple[int, ...]]
# A part of an axis: its tensor, the axis, the spaces it is made of, and its positions.
_Part = tuple[str, int, tuple[str, ...], Index]


@dataclass(frozen=True, eq=False)
class Taker:
    """A matrix through which a shift goes, and the bias that takes it.

    Attributes:
        matrix: of two axes.
        axis: the one along which it reads.
        places: for each position of that axis, which entry of the shift it reads, shape (n,).
        bias: of the matrix, along its other axis.
    """

    matrix: str
    axis: int
    places: Index
    bias: str


@dataclass(frozen=True, eq=False)
class Shift:
    """A vector that may be added to a bias.

    Attributes:
        adder: the bias.
        places: its positions that the vector is added to, shape (n,).
        beside: what stands before it, a gain or a matrix, and tells how large a bias counts.
        takers: their biases less what their matrices make of the vector compute the same; none
            where nothing sees it.
    """

    adder: str
    places: Index
    beside: str
    takers: tuple[Taker, ...]


def shifts_of(layout: Layout, shapes: Shapes, norms: Iterable[Norm]) -> list[Shift]:
    """The shifts of a model; what one adds to a bias, a later one may move on.

    Args:
        layout: of the model.
        shapes: its tensors' dimensions, by name.
        norms: those whose gains are free, as `norms_of` gives them.
    """
    if not any(name.endswith("bias") for name in shapes):
        return []
    found = [shift for norm in norms for shift in _behind_norm(norm, shapes)]
    places = _Places(layout, shapes)
    for space in layout.movable().values():
        if type(space.group) is Linear:
            found += places.inside(space.name)
    return sorted(found, key=lambda shift: not shift.takers)


def bias_of(matrix: str, shapes: Shapes) -> str | None:
    """The bias that is added to what a matrix makes, if it has one."""
    names = (matrix.removesuffix("weight") + "bias", f"{matrix}_bias")
    return next((name for name in names if name in shapes and name != matrix), None)


def _taker(matrix: str, axis: int, places: Index, shapes: Shapes) -> Taker | None:
    bias, shape = bias_of(matrix, shapes), shapes[matrix]
    if bias is None or len(shape) != 2 or shapes[bias] != (shape[1 - axis],):
        return None
    return Taker(matrix, axis, places, bias)


def _behind_norm(norm: Norm, shapes: Shapes) -> Iterator[Shift]:
    """The shift of a norm's bias, where all that reads it has a bias."""
    takers = [_taker(t.name, t.axis, t.places, shapes) for t in norm.readers]
    for adder in norm.adders if len(norm.adders) == 1 else ():  # else they would move as one
        if shapes[adder.name] == (norm.size,) and all(takers):
            every = tuple(taker for taker in takers if taker)
            yield Shift(adder.name, np.argsort(adder.places), norm.gain, every)


class _Places:
    """Where spaces stand on the tensors of a model."""

    def __init__(self, layout: Layout, shapes: Shapes) -> None:
        self._layout, self._shapes = layout, shapes
        self._on: dict[str, list[str]] = defaultdict(list)
        for name, placement in layout.placements.items():
            for space in {one for axis in placement.rule.axes for one in axis.names()}:
                self._on[space].append(name)

    def inside(self, space: str) -> Iterator[Shift]:
        """The shifts of biases in all instances of a dense space."""
        instances: dict[tuple[tuple[str, int], ...], list[str]] = defaultdict(list)
        for name in self._on[space]:
            instances[tuple(sorted(self._layout.placements[name].index.items()))].append(name)
        for names in instances.values():
            yield from self._shift(space, names)

    def _shift(self, space: str, names: Sequence[str]) -> Iterator[Shift]:
        """The shift of one bias, of the values or of the keys."""
        sides = {
            "write": self._along(space, names, "write"),
            "read": self._along(space, names, "read"),
        }
        vectors = {
            side: [part for part in parts if len(self._shapes[part[0]]) == 1]
            for side, parts in sides.items()
        }
        rows = {
            side: [part for part in parts if len(self._shapes[part[0]]) == 2]
            for side, parts in sides.items()
        }
        if any(len(parts) != 1 for parts in rows.values()):
            return
        ends = {side: self._other_side(*parts[0][:2]) for side, parts in rows.items()}
        if ends == {"write": "read", "read": "read"}:  # queries and keys
            for name, _, _, positions in vectors["read"]:
                if self._is_free(name, rows["read"][0][0]):
                    yield Shift(name, positions.reshape(-1), rows["read"][0][0], ())
        elif ends == {"write": "read", "read": "write"} and len(vectors["write"]) == 1:
            ((name, _, spaces, positions),) = vectors["write"]
            places = self._read(rows["read"][0], spaces, positions.shape)
            matrix, axis = rows["read"][0][:2]
            taker = None if places is None else _taker(matrix, axis, places, self._shapes)
            if taker is not None and self._is_free(name, rows["write"][0][0]):
                yield Shift(name, positions.reshape(-1), rows["write"][0][0], (taker,))

    def _is_free(self, bias: str, matrix: str) -> bool:
        """Whether a bias is its matrix's, and no declaration says that it is bound."""
        bound = self._layout.placements[bias].rule.begins_with_any(self._layout.bound)
        return bias_of(matrix, self._shapes) == bias and not bound

    def _along(self, space: str, names: Iterable[str], side: str) -> list[_Part]:
        """The parts of axes that are on one side of a space."""
        found = []
        for name in names:
            axes = self._layout.placements[name].rule.axes
            for axis, (one, size) in enumerate(zip(axes, self._shapes[name], strict=True)):
                if space not in one.names():
                    continue
                for atoms, positions in strands(one, self._layout.spaces, size):
                    if Atom(space, side) in atoms:
                        found.append((name, axis, tuple(a.name for a in atoms), positions))
        return found

    def _other_side(self, name: str, axis: int) -> str:
        """The side of a matrix's other axis; empty if it has several."""
        other = self._layout.placements[name].rule.axes[1 - axis]
        return other.side if isinstance(other, Atom) else ""

    def _read(
        self,
        part: _Part,
        spaces: Sequence[str],
        shape: Sequence[int],
    ) -> Index | None:
        """For each position that a matrix reads along, which one of those of a bias it is."""
        name, axis, own, positions = part
        if positions.size != self._shapes[name][axis] or not set(spaces) <= set(own):
            return None
        order = [own.index(one) for one in spaces]
        grid = np.indices(positions.shape).reshape(len(own), -1)
        places = np.empty(positions.size, np.int64)
        places[positions.reshape(-1)] = np.ravel_multi_index([grid[n] for n in order], shape)
        return places
