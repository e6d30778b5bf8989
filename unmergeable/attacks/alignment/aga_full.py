"""AGA as printed: least squares per whole matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from unmergeable.architectures.layout import Layout
from unmergeable.attacks.alignment.aga import Aga, ridge
from unmergeable.attacks.alignment.engine import BlockPair, inner_spaces
from unmergeable.attacks.alignment.heads import HeadMatch
from unmergeable.checkpoint.header import TensorEntry
from unmergeable.checkpoint.rewrite import Bytes
from unmergeable.errors import UnsupportedError
from unmergeable.gauge.axis_map import AxisMap, Float
from unmergeable.gauge.fit import View
from unmergeable.gauge.groups import Group
from unmergeable.gauge.notation import Atom, Axis, Concatenation, Gauge, Product, Space
from unmergeable.gauge.tensor_map import TensorMap

Strand = tuple[Atom, ...]


class AgaFull(Aga):
    """Regresses the whole of W_Q, W_K, W_V and W_O on the base's, all heads at once.

    T* = (W'W)^-1 W' W_base, the paper's formula, mixes all heads. Where the matrix is square it has
    as many unknowns as the data, so the result is the base's matrix up to the ridge: the
    fine-tuning of attention is lost (`base-reset`). Where it is wide, as keys and values are under
    grouped-query attention, only a part is. Biases are moved along, neurons are matched as `aga`
    does. Source: AGA (arXiv 2606.30360), the formula before Theorem 1; ridge as in its code.
    """

    name = "aga-full"
    sentence = "least squares per whole matrix, all heads at once"
    source = "AGA, arXiv 2606.30360, as printed"

    def __init__(self) -> None:
        self._matrices: dict[tuple[int, Strand], Float] = {}

    def heads(
        self,
        head: Space,
        query: Space | None,
        leaves: Sequence[Space],
        pairs: Sequence[BlockPair],
    ) -> HeadMatch:
        """No match: the matrices mix all heads."""
        inside = query.size or 1 if query is not None else 1
        return HeadMatch(np.arange(head.size or 0), np.tile(np.arange(inside), (head.size or 0, 1)))

    def inside(self, group: Group, views: Sequence[View]) -> AxisMap:
        """No fit per head."""
        return AxisMap.identity(len(views[0].moved))

    def layer(self, layout: Layout, position: int, pairs: Sequence[BlockPair]) -> None:
        """Fits one matrix for each of Q, K, V and O."""
        shared = _shared_heads(layout)
        for one, two in pairs:
            strand = tuple(
                atom for atom in one.atoms if layout.spaces[atom.name].per or atom.name in shared
            )
            names = [atom.name for atom in strand]
            if inner_spaces(layout) & set(names) and len(strand) < len(one.atoms):
                p, q = (block.rows(*names) for block in (one, two))
                columns = p.shape[-1]
                matrix = ridge(p.reshape(-1, columns), q.reshape(-1, columns))
                self._matrices[position, strand] = matrix

    def recover(
        self, layout: Layout, gauge: Gauge, entry: TensorEntry, data: Bytes, anchor: Bytes | None
    ) -> Bytes:
        """Moves the residual stream as fitted, and attention's own axes by their matrices."""
        placement, inner = layout.placements[entry.name], inner_spaces(layout)
        axes: list[Any] = list(layout.tensor_map(entry.name, gauge).axes)
        for number, axis in enumerate(placement.rule.axes):
            if placement.index and inner & set(axis.names()):  # attention that pools is left
                (position,) = placement.index.values()
                # Where all layers share an order of heads, the matrices were fitted behind it.
                order = layout.tensor_map(entry.name, _orders(layout, gauge)).axes[number]
                axes[number] = self._axis(axis, position)
                if order is not None:
                    axes[number] = AxisMap(order.source, axes[number].factors)
        change = TensorMap.of(axes)
        return change.apply(data, entry.shape, entry.dtype, allow_non_finite=True)

    def _axis(self, axis: Axis, position: int) -> AxisMap:
        if isinstance(axis, Concatenation):
            return AxisMap.joined([self._axis(part, position) for part in axis.parts])
        return AxisMap.block(self._matrices[position, _strand(axis)])


def _shared_heads(layout: Layout) -> set[str]:
    """The heads' spaces that all layers share, as T5's do."""
    heads = (layout.spaces[layout.spaces[name].per[-1]] for name in inner_spaces(layout))
    return {head.name for head in heads if not head.per}


def _orders(layout: Layout, gauge: Gauge) -> Gauge:
    """The gauge's orders of shared heads, and nothing else."""
    shared = _shared_heads(layout)

    def element(space: Space, instance: tuple[int, ...]) -> AxisMap:
        if space.name in shared:
            return gauge(space, instance)
        return AxisMap.identity(space.size or 0)

    return element


def _strand(axis: Axis) -> Strand:
    """The spaces of an axis, outermost first."""
    if isinstance(axis, Atom):
        return (axis,)
    if isinstance(axis, Product):
        return (axis.outer, *_strand(axis.inner))
    raise UnsupportedError(f"aga-full cannot treat {axis} inside a product as one matrix.")
