"""A tiny model as it stands on disk, moved by any gauge, loaded by transformers and compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

from tests.architectures.families import FAMILIES, Family, all_in_float64, outputs
from tests.architectures.twin import loaded, saved
from unmergeable.architectures.layout import Layout
from unmergeable.gauge.axis_map import AxisMap
from unmergeable.gauge.notation import Gauge, Space


@dataclass(frozen=True, eq=False)
class Scene:
    """A model in float64, as it is saved, where each of its tensors lives, and what it computes."""

    family: Family
    model: nn.Module
    saved: dict[str, Any]
    state: dict[str, torch.Tensor]
    layout: Layout
    before: torch.Tensor

    def error(self, gauge: Gauge, layout: Layout | None = None) -> float:
        """The largest change of an output, relative to the largest output."""
        layout = layout or self.layout
        moved = {}
        for name in self.state:
            source = layout.source(name, gauge)  # experts change places by their tensors' names
            weight = self.state[source]
            if weight.is_floating_point():
                change = layout.tensor_map(source, gauge)
                weight = torch.from_numpy(change(weight.numpy()).copy())
            moved[name] = weight
        with all_in_float64():
            after = outputs(loaded(self.model, moved), inputs_of(self.family))
        return float((self.before - after).abs().max() / self.before.abs().max())


def inputs_of(family: Family) -> dict[str, Any]:
    """What it is fed, in float64, with padding."""
    return family.inputs(torch.float64, padded=True)


def shapes(state: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """The dimensions of each tensor."""
    return {name: tuple(weight.shape) for name, weight in state.items()}


@cache
def scene(name: str) -> Scene:
    """The scene of a row of FAMILIES, made once."""
    family = next(family for family in FAMILIES if family.name == name)
    with all_in_float64():
        model = family.build(torch.float64)
        config, state = saved(model)
        before = outputs(loaded(model, state), inputs_of(family))
    return Scene(family, model, config, state, Layout.of(config, shapes(state)), before)


def only(name: str, draw: Callable[[Space, tuple[int, ...]], AxisMap]) -> Gauge:
    """A gauge that moves one space alone."""

    def element(space: Space, instance: tuple[int, ...]) -> AxisMap:
        return draw(space, instance) if space.name == name else AxisMap.identity(space.size or 0)

    return element
