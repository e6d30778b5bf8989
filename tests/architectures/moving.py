"""A tiny model as it stands on disk, moved by any gauge, loaded by transformers and compared."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

from tests.architectures.families import FAMILIES, Family, all_in_float64, outputs
from tests.architectures.twin import fill, loaded, places_of, saved, subject_from
from unmergeable.architectures.layout import Layout
from unmergeable.defences.defence import Subject
from unmergeable.gauge.axis_map import AxisMap
from unmergeable.gauge.notation import Axis, Gauge, Space

# By tensor, the axes that it was moved along, and their spaces.
Known = dict[tuple[str, tuple[Axis, ...], tuple[Space, ...]], torch.Tensor]


@dataclass(frozen=True, eq=False)
class Scene:
    """A model in float64, as it is saved, where each of its tensors lives, and what it computes.

    Attributes:
        family: what it is a model of.
        model: with the saved tensors, as stock transformers loads them.
        twin: another one, to be filled with other tensors.
        sources: for each weight of the twin, which element of the folder stands at each place.
        saved: its config.json.
        state: its tensors, by their names on disk.
        layout: where each lives.
        before: its outputs, with padding.
    """

    family: Family
    model: nn.Module
    twin: nn.Module
    sources: dict[str, torch.Tensor]
    saved: dict[str, Any]
    state: dict[str, torch.Tensor]
    layout: Layout
    before: torch.Tensor

    def error(
        self, gauge: Gauge, layout: Layout | None = None, known: Known | None = None
    ) -> float:
        """The largest change of an output, relative to the largest output."""
        with all_in_float64():
            after = outputs(self.filled(self.moved(gauge, layout, known)), inputs_of(self.family))
        return float((self.before - after).abs().max() / self.before.abs().max())

    def subject(self) -> Subject:
        """It as a defence meets it."""
        return subject_from(self.saved, self.state, torch.float64)

    def filled(self, state: dict[str, torch.Tensor]) -> nn.Module:
        """The twin with the tensors of another folder; the next call changes it again."""
        fill(self.twin, self.sources, state)
        return self.twin

    def moved(
        self, gauge: Gauge, layout: Layout | None = None, known: Known | None = None
    ) -> dict[str, torch.Tensor]:
        """Its tensors under a gauge.

        Args:
            gauge: what moves them.
            layout: where each lives, if otherwise than is declared.
            known: what this gauge has made of this model's tensors before; more is put there.
        """
        layout, known = layout or self.layout, {} if known is None else known
        moved = {}
        for name in self.state:
            source = layout.source(name, gauge)  # experts change places by their tensors' names
            axes = layout.placements[source].rule.axes
            spaces = tuple(layout.spaces[one] for axis in axes for one in axis.names())
            if (source, axes, spaces) not in known:
                weight = self.state[source]
                if weight.is_floating_point():
                    change = layout.tensor_map(source, gauge)
                    weight = torch.from_numpy(change(weight.numpy()).copy())
                known[source, axes, spaces] = weight
            moved[name] = known[source, axes, spaces]
        return moved


def emptied(model: nn.Module, names: Iterable[str]) -> nn.Module:
    """A copy without these weights."""
    twin = deepcopy(model)
    weights = twin.state_dict()
    with torch.no_grad():
        for name in names:
            weights[name].zero_()
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
        sources = places_of(name)
        twin = emptied(model, sources)
        fill(twin, sources, state)
        after = outputs(twin, inputs_of(family))
        torch.testing.assert_close(after, before, rtol=0, atol=1e-11 * float(before.abs().max()))
    layout = Layout.of(config, shapes(state))
    return Scene(family, model, twin, sources, config, state, layout, before)


def only(name: str, draw: Callable[[Space, tuple[int, ...]], AxisMap]) -> Gauge:
    """A gauge that moves one space alone."""

    def element(space: Space, instance: tuple[int, ...]) -> AxisMap:
        return draw(space, instance) if space.name == name else AxisMap.identity(space.size or 0)

    return element
