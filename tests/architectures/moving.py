"""A tiny model as it stands on disk, moved by any gauge, loaded by transformers and compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers
from safetensors.torch import load_file

from tests.architectures.families import FAMILIES, Family, all_in_float64, outputs
from unmergeable.architectures.layout import Layout
from unmergeable.gauge.axis_map import AxisMap
from unmergeable.gauge.notation import Gauge, Space


@dataclass(frozen=True, eq=False)
class Scene:
    """A saved model in float64, where each of its tensors lives, and what it computes."""

    family: Family
    config: Any
    saved: dict[str, Any]
    state: dict[str, torch.Tensor]
    layout: Layout
    before: torch.Tensor

    @property
    def inputs(self) -> dict[str, Any]:
        return self.family.inputs(torch.float64, padded=True)

    def load(self, state: dict[str, torch.Tensor]) -> torch.nn.Module:
        cls = getattr(transformers, self.family.model)
        return cls.from_pretrained(
            None, config=self.config, state_dict=dict(state), dtype=torch.float64,
            attn_implementation="eager",
        ).eval()  # fmt: skip

    def error(self, gauge: Gauge, layout: Layout | None = None) -> float:
        """The largest change of an output, relative to the largest output."""
        layout = layout or self.layout
        moved = {}
        for name in self.state:
            # Experts change places by their tensors' names.
            source = layout.source(name, gauge) if hasattr(layout, "source") else name
            weight = self.state[source]
            if weight.is_floating_point():
                change = layout.tensor_map(source, gauge)
                weight = torch.from_numpy(change(weight.numpy()).copy())
            moved[name] = weight
        with all_in_float64():
            after = outputs(self.load(moved), self.inputs)
        return float((self.before - after).abs().max() / self.before.abs().max())


def shapes(state: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """The dimensions of each tensor."""
    return {name: tuple(weight.shape) for name, weight in state.items()}


@cache
def scene(name: str) -> Scene:
    """The scene of a row of FAMILIES, made once."""
    family = next(family for family in FAMILIES if family.name == name)
    model = family.build(torch.float64)
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        state = load_file(f"{folder}/model.safetensors")
        saved = json.loads((Path(folder) / "config.json").read_text("utf-8"))
    layout = Layout.of(saved, shapes(state))
    made = Scene(family, model.config, saved, state, layout, torch.zeros(0))
    with all_in_float64():
        return replace(made, before=outputs(made.load(state), made.inputs))


def only(name: str, draw: Callable[[Space, tuple[int, ...]], AxisMap]) -> Gauge:
    """A gauge that moves one space alone."""

    def element(space: Space, instance: tuple[int, ...]) -> AxisMap:
        return draw(space, instance) if space.name == name else AxisMap.identity(space.size or 0)

    return element
