"""AGA as printed: least squares per whole matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from unmergeable.architectures.layout import Layout
from unmergeable.attacks.alignment.aga import Aga, ridge
from unmergeable.attacks.alignment.fitted import Fitted
from unmergeable.attacks.alignment.heads import HeadMatch
from unmergeable.attacks.alignment.method import Anchor
from unmergeable.attacks.alignment.pairs import BlockPair
from unmergeable.attacks.alignment.spaces import inner_spaces
from unmergeable.checkpoint.header import TensorEntry
from unmergeable.errors import UnsupportedError
from unmergeable.gauge.axis_blocks import strands
from unmergeable.gauge.axis_map import AxisMap, Float
from unmergeable.gauge.groups import Group
from unmergeable.gauge.memory import Bytes
from unmergeable.gauge.notation import Atom, Axis, Gauge, Space
from unmergeable.gauge.tensor_map import TensorMap
from unmergeable.gauge.views import View

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
    order = 50
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
        inner = inner_spaces(layout)
        inside = inner | {outer for name in inner for outer in layout.spaces[name].per[1:]}
        inside |= {name for name, space in layout.spaces.items() if space.per}
        for one, two in pairs:
            strand = tuple(atom for atom in one.atoms if atom.name in inside)
            names = [atom.name for atom in strand]
            if inner & set(names) and len(strand) < len(one.atoms):
                p, q = (block.rows(*names) for block in (one, two))
                columns = p.shape[-1]
                matrix = ridge(p.reshape(-1, columns), q.reshape(-1, columns))
                self._matrices[position, strand] = matrix

    def recover(
        self, layout: Layout, gauge: Fitted, entry: TensorEntry, data: Bytes, anchor: Anchor | None
    ) -> Bytes:
        """Moves the residual stream as fitted, and attention's own axes by their matrices."""
        placement, inner = layout.placements[entry.name], inner_spaces(layout)
        whole = gauge.change(entry.name)
        if not isinstance(whole, TensorMap):  # a stack of experts, which are neurons
            return super().recover(layout, gauge, entry, data, anchor)
        axes: list[Any] = list(whole.axes)
        for number, axis in enumerate(placement.rule.axes):
            if placement.index and inner & set(axis.names()):  # attention that pools is left
                (position,) = placement.named.values()
                # Where all layers share an order of heads, the matrices were fitted behind it.
                shared = layout.tensor_map(entry.name, _orders(layout, gauge))
                assert isinstance(shared, TensorMap)
                order = shared.axes[number]
                axes[number] = self._axis(axis, layout, entry.shape[number], position)
                if order is not None:
                    axes[number] = AxisMap(order.source, axes[number].factors)
        change = TensorMap.of(axes)
        return change.apply(data, entry.shape, entry.dtype, allow_non_finite=True)

    def _axis(self, axis: Axis, layout: Layout, size: int, position: int) -> AxisMap:
        """The matrices of an axis's parts, each on the positions of its part.

        Raises:
            UnsupportedError: a part that no matrix shows.
        """
        matrix, inner = np.eye(size), inner_spaces(layout)
        for atoms, places in strands(axis, layout.spaces, size):
            where = places.reshape(-1)
            if (position, atoms) in self._matrices:
                matrix[np.ix_(where, where)] = self._matrices[position, atoms]
            elif any(atom.name in inner and atom.side != "order" for atom in atoms):
                raise UnsupportedError(
                    f"{self.name} cannot treat {axis}, whose heads it mixes: no matrix shows it."
                )
            # Gains of queries or keys have no matrix: the paper has none.
        return AxisMap.block(matrix)


def _orders(layout: Layout, gauge: Gauge) -> Gauge:
    """The gauge's orders of the heads that all layers share, as T5's do, and nothing else."""
    heads = (layout.spaces[layout.spaces[name].per[-1]] for name in inner_spaces(layout))
    shared = {head.name for head in heads if not head.per}

    def element(space: Space, instance: tuple[int, ...]) -> AxisMap:
        if space.name in shared:
            return gauge(space, instance)
        return AxisMap.identity(space.size or 0)

    return element
