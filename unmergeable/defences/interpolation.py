"""The straight line that merges move a model along: W0 + s (W - W0)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from unmergeable.defences.model_in_training import ModelInTraining

if TYPE_CHECKING:
    import torch


class Interpolation:
    """The weights at any point of the line, differentiable in the weights in training.

    Of an adapter, B alone is scaled, which scales B A. Otherwise every parameter that the base
    holds moves, and a copy of the base is kept in memory: one more copy of what is trained. A
    classifier that the base lacks stays: no merge scales it.

    Args:
        model: while it still holds the base's weights.
    """

    def __init__(self, model: ModelInTraining) -> None:
        named = dict(model.module.named_parameters())
        if model.lora:
            self._moving = {name: p for name, p in named.items() if ".lora_B." in name}
            self._base: Mapping[str, torch.Tensor] = {}
        else:
            self._moving = {
                name: p for name, p in named.items() if name in model.names and p.requires_grad
            }
            self._base = {name: p.detach().clone() for name, p in self._moving.items()}

    def at(self, s: float) -> dict[str, torch.Tensor]:
        """The weights at s, by parameter name; at 1 exactly those in training."""
        # W + (s - 1)(W - W0), which is the same and has no rounding at s = 1.
        return {
            name: p + (s - 1) * (p - self._base[name]) if self._base else s * p
            for name, p in self._moving.items()
        }
