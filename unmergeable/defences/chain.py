"""Several defences, one after the other, as one change of coordinates of each tensor."""

from __future__ import annotations

from dataclasses import dataclass

from unmergeable.architectures.layout import Layout
from unmergeable.gauge.notation import Gauge
from unmergeable.gauge.tensor_chain import TensorChain
from unmergeable.gauge.tensor_map import Change


@dataclass(frozen=True, eq=False)
class Chain:
    """The gauges of the defences that a model went through, first one first.

    Attributes:
        layout: of the model.
        gauges: one per defence.
    """

    layout: Layout
    gauges: tuple[Gauge, ...]

    @property
    def copies(self) -> int:
        """How many times a tensor's bytes are in memory while it is moved."""
        # One gauge works piece by piece. Several make a tensor of a tensor, of what was read.
        return 1 if len(self.gauges) == 1 else 3

    def tensor_map(self, name: str) -> Change | TensorChain:
        """The change of coordinates of what the tensor of that name holds in the open model."""
        maps = []
        for gauge in self.gauges:
            maps.append(self.layout.tensor_map(name, gauge))
            name = self.layout.destination(name, gauge)
        return maps[0] if len(maps) == 1 else TensorChain.of(maps)

    def source(self, name: str) -> str:
        """The tensor of the open model whose content, moved, stands under that name in the end."""
        for gauge in reversed(self.gauges):
            name = self.layout.source(name, gauge)
        return name

    def destination(self, name: str) -> str:
        """Where the content of a tensor of the open model stands in the end."""
        for gauge in self.gauges:
            name = self.layout.destination(name, gauge)
        return name

    def then(self, gauge: Gauge) -> Chain:
        """The chain with one more defence at its end."""
        return Chain(self.layout, (*self.gauges, gauge))
