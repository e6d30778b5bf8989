"""What a method of alignment hands back."""

from __future__ import annotations

from typing import Protocol

from unmergeable.checkpoint.header import TensorEntry
from unmergeable.gauge.axis_map import AxisMap
from unmergeable.gauge.memory import Bytes
from unmergeable.gauge.notation import Space
from unmergeable.gauge.stack_map import StackMap
from unmergeable.gauge.tensor_map import TensorMap


class Fitted(Protocol):
    """What was fitted: a gauge, and the map of each tensor that is made of it."""

    def __call__(self, space: Space, instance: tuple[int, ...]) -> AxisMap:
        """The element of a space."""

    def change(self, name: str) -> TensorMap | StackMap:
        """The map of a tensor of the protected model."""

    def moved(self, entry: TensorEntry, data: Bytes) -> Bytes:
        """The aligned bytes of a tensor of the protected model."""
