"""What the inner states of a private base are made to be while its blocks grow.

Blocks that grow on the public base's own states keep its coordinates, and a pull-back finds them.
So for a while each state z stands for z + s |z A|, as long as z was, with A orthogonal and drawn
for each layer: an even function, which no linear map takes back.

Source: "Gwarp" of our own exploration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


class Disturbance:
    """The disturbance of the states behind each layer.

    Args:
        width: of the stream.
        strength: s; 0 for none.
        seed: of the matrices.
    """

    def __init__(self, width: int, strength: float, seed: int) -> None:
        self._width, self._strength, self._seed = width, strength, seed
        self._turns: dict[int, torch.Tensor] = {}

    def __call__(self, layer: int, states: torch.Tensor) -> torch.Tensor:
        """States behind a layer, disturbed: shape (..., width)."""
        if not self._strength:
            return states
        made = states + self._strength * (states @ self._turn(layer).to(states)).abs()
        made = made - made.mean(-1, keepdim=True)
        length = made.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        scaled: torch.Tensor = made * (states.norm(dim=-1, keepdim=True) / length)
        return scaled

    def _turn(self, layer: int) -> torch.Tensor:
        import torch

        if layer not in self._turns:
            draw = torch.Generator().manual_seed(self._seed + layer)
            noise = torch.randn(self._width, self._width, generator=draw, dtype=torch.float64)
            self._turns[layer] = torch.linalg.qr(noise)[0].float()
        return self._turns[layer]
