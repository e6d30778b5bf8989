"""Two models' tensors side by side, as far as the protected one's are fitted, cut into blocks."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from unmergeable.architectures.layout import Layout
from unmergeable.attacks.alignment.pairing import common_part
from unmergeable.attacks.alignment.table import Table
from unmergeable.checkpoint.header import TensorEntry
from unmergeable.checkpoint.reader import TensorReader
from unmergeable.gauge.axis_blocks import Block
from unmergeable.gauge.axis_map import AxisMap
from unmergeable.gauge.memory import Bytes
from unmergeable.gauge.notation import Atom, Axis, split
from unmergeable.gauge.parts import Real, moved, moved_values, parts, values
from unmergeable.gauge.stack_map import StackMap
from unmergeable.gauge.tensor_map import TensorMap
from unmergeable.gauge.views import View, Wide
from unmergeable.gauge.wild import has_scales, tamed

if TYPE_CHECKING:
    from unmergeable.attacks.alignment.engine import Alignment

# Rows of a table that are looked at for the scales of the norm before it.
_SAMPLE = 512
# Rows of a matrix that are looked at for the scales of the norm before it.
_ROWS = 384
BlockPair = tuple[Block, Block]  # a block of the protected tensor, and the anchor's


@dataclass(frozen=True, eq=False)
class Part:
    """One tensor of a matched expert.

    Attributes:
        name: of the protected model's tensor.
        place: in its stack, if it is a slice of one.
        axes: of the tensor or the slice, as declared.
        tensors: the protected model's, with all that is fitted so far, and the base's.
    """

    name: str
    place: int | None
    axes: Sequence[Axis]
    tensors: tuple[Real, Real]


class Pairs:
    """The tensors that two models both have.

    Args:
        alignment: both models, and what is fitted so far.
    """

    def __init__(self, alignment: Alignment) -> None:
        self._layout, self._shapes, self._gauge = alignment.layout, alignment.shapes, alignment
        self._gains, self._rows = alignment.gains, alignment.rows
        self._directions = alignment.directions
        self._protected, self._anchor = alignment.protected, alignment.anchor

    def size(self, names: Sequence[str]) -> int:
        """Bytes of the protected model's tensors, as stored."""
        return sum(self._protected.entry(name).size for name in names)

    def need(self, names: Sequence[str]) -> int:
        """About the bytes that fitting a layer holds: of both models, its numbers in float32."""
        need = 0
        for name in names:
            for entry in (self._protected.entry(name), self._anchor.entry(name)):
                wide = 4 * math.prod(entry.shape)
                # Of experts, one is looked at at a time; fused ones are read together, as stored.
                if self._layout.is_stack(name):
                    need += entry.size
                elif not is_numbered(self._layout, name):
                    need += max(entry.size, wide)
        return need

    def shown(self, name: str, space: str) -> Iterator[Wide]:
        """What a tensor shows of a space; in pieces where it is a table."""
        folded = self._gains.columns(name)
        centred = (
            self._directions.behind_softmax(name),
            self._directions.on_rows(name),
        )
        table = Table.of(
            self._layout, self._gauge, name, space, self._protected, self._anchor, folded, centred
        )
        if table is not None:
            yield table
            return
        for pair in self.blocks(name):
            yield from views(pair, space)

    def blocks(self, name: str) -> Iterator[BlockPair]:
        """A tensor's blocks in both models, the protected one's with all that is fitted so far."""
        return self.paired(name, self.tensors(name))

    def tensors(self, name: str, whole: bool = False) -> tuple[Real, Real]:
        """A tensor of both models, the protected one's with all that is fitted so far.

        Args:
            name: of the base's tensor.
            whole: whether with what may have been added to it unseen.
        """
        source = self._layout.source(name, self._gauge)
        entry = self._protected.entry(source)
        data = self._protected.read(source)
        one = moved_values(self._gauge.change(source), data, entry.shape, entry.dtype)
        del data
        both = common_part(self._shapes, name)
        one, two = one[both], _read(self._anchor, name)[both]
        axes = self._layout.placements[name].rule.axes
        return tamed(*self._compared(name, one, two, whole), self._orderly(axes))

    def _compared(self, name: str, one: Real, two: Real, whole: bool) -> tuple[Real, Real]:
        """A tensor of both models, or the same rows, as a fit may compare it."""
        one, two = self._rows.folded(name, *self._gains.folded(name, one, two))
        return (one, two) if whole else self._directions.compared(name, one, two)

    def sample(self, name: str, most: int = _SAMPLE, whole: bool = False) -> tuple[Real, Real]:
        """As `tensors`, of a table with fixed rows no more than a sample of them."""
        axes = self._layout.placements[name].rule.axes
        change, rows = self._gauge.change(name), self._shapes[name][0]
        fixed = all(self._layout.spaces[one].group is None for one in axes[0].names())
        if rows < 2 * most or not fixed or not isinstance(change, TensorMap):
            return self.tensors(name, whole)
        chosen = slice(0, rows, -(-rows // most))
        one, two = (
            values(reader.rows(name, chosen), (-1, *reader.entry(name).shape[1:]), entry.dtype)
            for reader in (self._protected, self._anchor)
            for entry in (reader.entry(name),)
        )
        both = (slice(None), *common_part(self._shapes, name)[1:])
        return tamed(*self._compared(name, moved(change, one)[both], two[both], whole))

    def paired(self, name: str, tensors: tuple[Real, Real]) -> Iterator[BlockPair]:
        """The blocks of what `tensors` gave."""
        return self._paired(self._layout.placements[name].rule.axes, tensors)

    def experts(self, names: Sequence[str]) -> Iterator[tuple[Mapping[str, int], list[Part]]]:
        """For each matched expert, its number in the protected model, and its tensors."""
        spaces, placements = self._layout.spaces, self._layout.placements
        found: dict[tuple[tuple[str, int], ...], list[tuple[str, int | None]]] = defaultdict(list)
        stacks = {}
        for name in names:
            if self._layout.is_stack(name):
                axis = placements[name].rule.axes[0]
                data = [reader.read(name) for reader in (self._protected, self._anchor)]
                change = self._gauge.change(name)
                assert isinstance(change, StackMap)
                stacks[name] = change, data
                for place, old in enumerate(change.source):
                    index = split(axis, int(old), spaces)
                    found[tuple(sorted(index.items()))].append((name, place))
            else:
                index = dict(placements[self._layout.source(name, self._gauge)].index)
                index = {one: at for one, at in index.items() if one in self._layout.numbering}
                found[tuple(sorted(index.items()))].append((name, None))
        for key, members in found.items():
            parts = []
            for name, at in members:
                axes = placements[name].rule.axes
                if at is None:
                    source = self._layout.source(name, self._gauge)
                    parts.append(Part(source, None, axes, self.tensors(name)))
                    continue
                change, data = stacks[name]
                old = int(change.source[at])
                one, two = (
                    _slice(reader.entry(name), content, place)
                    for reader, content, place in zip(
                        (self._protected, self._anchor), data, (old, at), strict=True
                    )
                )
                tensors = moved(change.slices[old], one), two
                folded = self._gains.folded(name, *tensors, slice(1, None))
                seen = self._directions.compared(name, *folded, start=1)
                tensors = tamed(*seen, self._orderly(axes[1:]))
                parts.append(Part(name, old, axes[1:], tensors))
            yield dict(key), parts

    def _orderly(self, axes: Sequence[Axis]) -> list[int]:
        """The axes whose positions no lock scales."""
        return [
            number
            for number, axis in enumerate(axes)
            if isinstance(axis, Atom) and not has_scales(self._layout.spaces[axis.name].group)
        ]

    def blocks_of(self, parts: Sequence[Part]) -> list[BlockPair]:
        """The blocks of an expert's tensors."""
        return [pair for part in parts for pair in self._paired(part.axes, part.tensors)]

    def _paired(self, axes: Sequence[Axis], tensors: Sequence[Real]) -> Iterator[BlockPair]:
        one, two = (parts(axes, self._layout.spaces, tensor) for tensor in tensors)
        return zip(one, two, strict=True)


def is_numbered(layout: Layout, name: str) -> bool:
    """Whether a tensor belongs to an expert, or to each of them a slice of it."""
    return layout.is_stack(name) or bool(layout.numbering & layout.placements[name].index.keys())


def views(pair: BlockPair, name: str, waiting: AbstractSet[str] = frozenset()) -> list[View]:
    """What a pair of blocks shows of a space: nothing, or one view.

    Args:
        pair: the blocks.
        name: the space.
        waiting: spaces not fitted yet, which must not be on the other dimensions.
    """
    one, two = pair
    if one.names().count(name) != 1 or (waiting - {name}) & set(one.names()):
        return []
    side = one.atoms[one.names().index(name)].side
    return [View(side, one.rows(name), two.rows(name))]


def _read(reader: TensorReader, name: str) -> Real:
    entry = reader.entry(name)
    return values(reader.read(name), entry.shape, entry.dtype)


def _slice(entry: TensorEntry, data: Bytes, place: int) -> Real:
    """The numbers of one slice of a stored stack."""
    return values(data.reshape(entry.shape[0], -1)[place], entry.shape[1:], entry.dtype)


def rest_moved(
    change: TensorMap, reads: AbstractSet[int], one: Real, two: Real
) -> tuple[Real, Real]:
    """Two models' tensors, the first moved along all axes but these; of many rows a sample."""
    if one.ndim == 2 and len(reads) == 1:
        (rows,) = {0, 1} - reads
        axis, size = change.axes[rows], one.shape[rows]
        if size > _ROWS and (axis is None or axis.scale is not None):
            chosen = np.arange(0, size, -(-size // _ROWS))
            axis = axis or AxisMap.identity(size)
            assert axis.scale is not None
            scale = axis.scale[chosen].astype(one.dtype)
            part = np.take(one, axis.source[chosen], rows) * np.expand_dims(scale, 1 - rows)
            return part, np.take(two, chosen, rows)
    axes = [None if n in reads else axis for n, axis in enumerate(change.axes)]
    return moved(TensorMap(tuple(axes)), one), two
