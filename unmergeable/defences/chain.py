"""Several defences, one after the other, as one change of coordinates of each tensor."""

from __future__ import annotations

from dataclasses import dataclass

from unmergeable.architectures.layout import Layout
from unmergeable.gauge.notation import Gauge
from unmergeable.gauge.tensor_map import TensorChain, TensorMap


@dataclass(frozen=True, eq=False)
class Chain:
    """The gauges of the defences that a model went through, first one first.

    Attributes:
        layout: of the model.
        gauges: one per defence.
    """

    layout: Layout
    gauges: tuple[Gauge, ...]

    def tensor_map(self, name: str) -> TensorMap | TensorChain:
        """The change of coordinates of one tensor."""
        maps = [self.layout.tensor_map(name, gauge) for gauge in self.gauges]
        return maps[0] if len(maps) == 1 else TensorChain.of(maps)

    def then(self, gauge: Gauge) -> Chain:
        """The chain with one more defence at its end."""
        return Chain(self.layout, (*self.gauges, gauge))
