"""The released model's task vector, which the attacks without data cut and rescale.

Everything is float32, tensor by tensor, and no variant is held in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TYPE_CHECKING

from unmergeable.architectures.layout import Layout
from unmergeable.attacks.attack import Variant
from unmergeable.attacks.parts import place
from unmergeable.merging.method import State
from unmergeable.merging.task_vectors import Computed

if TYPE_CHECKING:
    import torch

# From a tensor's name, the base's tensor and the task vector there to the task vector to take in
# its place; None leaves the tensor as it is.
Change = Callable[[str, "torch.Tensor", "torch.Tensor"], "torch.Tensor | None"]


def shared(base: State, model: State) -> Iterator[str]:
    """The floating-point tensors that both models have, in one shape: heads may differ."""
    for name, tensor in model.items():
        other = base.get(name)
        if tensor.is_floating_point() and other is not None and other.shape == tensor.shape:
            yield name


def changed(label: str, base: State, released: State, change: Change) -> Iterator[Variant]:
    """The model with another task vector, unless nothing changed or something is not finite.

    What changed is made again whenever it is asked for: a copy would be one more model in memory.
    """
    known = set(shared(base, released))

    def make(name: str) -> torch.Tensor:
        if name not in known:
            return released[name]
        vector = change(name, base[name], released[name] - base[name])
        return released[name] if vector is None else base[name] + vector

    state = Computed(released, make)
    moved = False
    for name, tensor in state.items():
        moved = moved or not tensor.equal(released[name])
        if not finite({name: tensor}):
            return
    if moved:
        yield Variant(label, state)


def finite(state: State) -> bool:
    """Whether every number of a model is finite; sums that overflow count as not."""
    import torch

    return all(
        bool(torch.isfinite(tensor.sum()))
        for tensor in state.values()
        if tensor.is_floating_point()
    )


def peers_vector(peers: Sequence[State], base: State, name: str) -> torch.Tensor:
    """The sum of the thief's own task vectors on a tensor."""
    import torch

    total = torch.zeros_like(base[name])
    for peer in peers:
        if name in peer and peer[name].shape == total.shape:
            total += peer[name] - base[name]
    return total


def grains(layout: Layout) -> dict[str, Callable[[str], Hashable]]:
    """The ways to cut a model before something is measured: from a tensor's name to its piece."""
    return {
        "tensor": lambda name: name,
        "layer": lambda name: place(layout, name),
        "model": lambda name: None,
    }
