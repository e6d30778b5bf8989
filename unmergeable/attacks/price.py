"""What an attack's computing costs, counted as it is usually counted.

A forward pass takes 2 operations per weight and token, a training step 6. Embedding tables are
counted like the rest, although looking a word up costs nothing: that is the custom, and on small
models it errs on the expensive side.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from unmergeable.architectures.layout import Layout
from unmergeable.attacks.attack import Thief
from unmergeable.attacks.parts import residual
from unmergeable.evaluation.task import Batch
from unmergeable.gauge.notation import sides
from unmergeable.merging.method import State

FORWARD, TRAINING = 2, 6


@dataclass
class Meter:
    """Adds up operations.

    Attributes:
        parameters: weights of the model.
        patch: numbers that an image model reads per token; 0 for a text model.
        flops: the sum so far.
    """

    parameters: int
    patch: int = 0
    flops: float = 0.0

    @classmethod
    def of(cls, thief: Thief) -> Meter:
        """A meter for a thief's models."""
        parameters = sum(t.numel() for t in thief.base.values() if t.is_floating_point())
        return cls(parameters, _patch(thief.layout, thief.base))

    def tokens(self, batch: Batch) -> int:
        """How many positions a model sees in a batch, padding included."""
        sizes = [
            t.numel() if not t.is_floating_point() else t.numel() // (self.patch or t.shape[-1])
            for t in batch.inputs.values()
        ]
        return max(sizes, default=0)

    def forward(self, batches: Iterable[Batch]) -> None:
        """Counts a forward pass on each batch."""
        self.flops += FORWARD * self.parameters * sum(map(self.tokens, batches))

    def training(self, batches: Iterable[Batch]) -> None:
        """Counts a training step on each batch."""
        self.flops += TRAINING * self.parameters * sum(map(self.tokens, batches))


def _patch(layout: Layout, base: State) -> int:
    """The size of the patch that one position of an image is made of: a kernel without its rows."""
    stream = residual(layout)
    for name, placement in layout.placements.items():
        axes = placement.rule.axes
        if len(axes) == 4 and "write" in sides(axes[0], stream) and name in base:
            return int(base[name][0].numel())
    return 0
