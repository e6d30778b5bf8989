"""The model in training, as defences see it: parameters by name, layers, attention matrices."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from unmergeable.architectures.layout import Layout
from unmergeable.checkpoint.folder import ModelFolder
from unmergeable.gauge.notation import Axis, Concatenation

if TYPE_CHECKING:
    import torch

# What the architectures' data files call the coordinates inside an attention head.
_ATTENTION = {"qk", "vo"}


@dataclass(frozen=True)
class Part:
    """A matrix, or the part of a fused one.

    Attributes:
        name: the tensor's name in the base's folder.
        axis: the axis along which the part is cut out.
        start: its first position there.
        size: how many positions.
    """

    name: str
    axis: int
    start: int
    size: int

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """The part of a tensor, as a view."""
        return tensor.narrow(self.axis, self.start, self.size)


@dataclass(frozen=True, eq=False)
class ModelInTraining:
    """What a defence may know of the model in training.

    Attributes:
        module: what is trained, not wrapped; a PEFT model where an adapter is trained.
        folder: the base's folder.
        names: the module's parameters that the base's folder holds, to their names there; without
            an adapter's and without a classifier's that the base lacks.
        lora: whether an adapter is trained.
        causal: whether it is a causal language model.
        seed: of everything that a defence draws.
        evaluate: measures the validation items: `loss` in nats and `accuracy` in [0, 1].
    """

    module: torch.nn.Module
    folder: ModelFolder
    names: Mapping[str, str]
    lora: bool
    causal: bool
    seed: int
    evaluate: Callable[[], Mapping[str, float]]

    @cached_property
    def layout(self) -> Layout:
        """Where the base's tensors live.

        Raises:
            UnsupportedError: an architecture that nobody has declared.
        """
        return Layout.of(self.folder.config, self.folder.shapes)

    def trained(self) -> dict[str, torch.nn.Parameter]:
        """The base's parameters in training, by their names in the base's folder."""
        return {
            self.names[name]: parameter
            for name, parameter in self.module.named_parameters()
            if name in self.names and parameter.requires_grad
        }

    def layer_matrices(self) -> dict[str, int]:
        """The trained matrices inside layers, each with its layer.

        Embeddings, norms, biases and heads are none.
        """
        placed = self.layout.placements
        return {
            name: placed[name].index["layer"]
            for name, parameter in self.trained().items()
            if parameter.ndim == 2 and "layer" in placed[name].index
        }


def attention_matrices(layout: Layout) -> list[Part]:
    """Q, K, V and O of every layer: the matrices with an axis inside the attention heads.

    A fused projection counts as its parts, since a large part must not stand in for a small one.
    """
    return [
        part
        for name, placement in layout.placements.items()
        if len(placement.rule.axes) == 2
        for axis, notation in enumerate(placement.rule.axes)
        for part in _inside(name, axis, notation, layout)
    ]


def _inside(name: str, axis: int, notation: Axis, layout: Layout) -> Iterator[Part]:
    start = 0
    pieces = notation.parts if isinstance(notation, Concatenation) else (notation,)
    for piece in pieces:
        size = piece.size(layout.spaces)
        if size is None:
            return
        if _ATTENTION & set(piece.names()):
            yield Part(name, axis, start, size)
        start += size
