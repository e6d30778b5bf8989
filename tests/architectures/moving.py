"""A tiny model as it stands on disk, moved by any gauge, loaded by transformers and compared."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
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
    """A model in float64, as it is saved, where each of its tensors lives, and what it computes.

    Attributes:
        family: what it is a model of.
        model: with the saved tensors, as stock transformers loads them.
        twin: another model, to be filled; None where only transformers knows how, since tensors go
            by other names or shapes in memory.
        saved: its config.json.
        state: its tensors, by their names on disk.
        layout: where each lives.
        before: its outputs, with padding.
    """

    family: Family
    model: nn.Module
    twin: nn.Module | None
    saved: dict[str, Any]
    state: dict[str, torch.Tensor]
    layout: Layout
    before: torch.Tensor

    def error(self, gauge: Gauge, layout: Layout | None = None) -> float:
        """The largest change of an output, relative to the largest output."""
        with all_in_float64():
            after = outputs(self.filled(self.moved(gauge, layout)), inputs_of(self.family))
        return float((self.before - after).abs().max() / self.before.abs().max())

    def filled(self, state: dict[str, torch.Tensor]) -> nn.Module:
        """A model with other tensors; the next call may change it."""
        if self.twin is None:
            return loaded(self.model, state)
        fill(self.twin, state)
        return self.twin

    def moved(self, gauge: Gauge, layout: Layout | None = None) -> dict[str, torch.Tensor]:
        """Its tensors under a gauge."""
        layout = layout or self.layout
        moved = {}
        for name in self.state:
            source = layout.source(name, gauge)  # experts change places by their tensors' names
            weight = self.state[source]
            if weight.is_floating_point():
                change = layout.tensor_map(source, gauge)
                weight = torch.from_numpy(change(weight.numpy()).copy())
            moved[name] = weight
        return moved


def fill(model: nn.Module, state: dict[str, torch.Tensor]) -> bool:
    """Copies tensors into a model, if they are all it has, under the names it has in memory.

    It does at once what `from_pretrained` does for such a model in many steps; `scene` shows for
    each that the outcome is the same.
    """
    held = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    places = {name: held[name] for name in state if name in held}
    if len(places) < len(state) or any(places[n].shape != state[n].shape for n in state):
        return False
    reached = {place.data_ptr() for place in places.values()}
    if any(weight.data_ptr() not in reached for weight in model.parameters()):
        return False  # neither in the folder nor tied to what is
    with torch.no_grad():
        for name, place in places.items():
            place.copy_(state[name])
    return True


def emptied(model: nn.Module) -> nn.Module:
    """A copy without any of the weights."""
    twin = deepcopy(model)
    with torch.no_grad():
        for weight in twin.state_dict().values():
            weight.zero_()
    return twin


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
        built = family.build(torch.float64)
        config, state = saved(built)
        model = loaded(built, state)
        before = outputs(model, inputs_of(family))
        twin = emptied(model)
        if filled := fill(twin, state):
            assert torch.equal(outputs(twin, inputs_of(family)), before)
    layout = Layout.of(config, shapes(state))
    return Scene(family, model, twin if filled else None, config, state, layout, before)


def only(name: str, draw: Callable[[Space, tuple[int, ...]], AxisMap]) -> Gauge:
    """A gauge that moves one space alone."""

    def element(space: Space, instance: tuple[int, ...]) -> AxisMap:
        return draw(space, instance) if space.name == name else AxisMap.identity(space.size or 0)

    return element
