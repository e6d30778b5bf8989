"""EMR-Merging (Huang et al., NeurIPS 2024, arXiv:2405.17461): elect, mask and rescale.

Per number, the sign is elected by the sum of the task vectors, and the magnitude is the largest of
those that agree. What is deployed for a task is this one vector, masked where the task's own sign
disagrees and rescaled to the task's mean magnitude (section 3.2). All tensors are treated alike.

The rescaler's means: the official code adds up the means of the tensors, so that a norm's gain
counts as much as a matrix; the paper's formula has one sum over all numbers, which we follow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from unmergeable.merging.method import Ingredients, Merged, MergeMethod
from unmergeable.merging.task_vectors import Computed, deltas, finite, floating, lazily_added

if TYPE_CHECKING:
    import torch


def merge(ingredients: Ingredients) -> Merged:
    """Elects the unified task vector; it and each task's model are made when they are asked for."""
    count = len(ingredients.models)
    own, kept = [0.0] * count, [0.0] * count
    unified = lazily_added(ingredients, lambda name, parts: elected(parts))
    for name in floating(ingredients.base):
        parts = deltas(ingredients, name)
        chosen = elected(parts)
        finite(ingredients.base[name].float() + chosen, name)
        for index, delta in enumerate(parts):
            own[index] += float(delta.abs().double().sum())
            kept[index] += float(masked(chosen, delta).abs().double().sum())
    scales = [a / b if b else 0.0 for a, b in zip(own, kept, strict=True)]

    def of_task(index: int) -> Computed[torch.Tensor]:
        def make(name: str) -> torch.Tensor:
            base = ingredients.base[name]
            if not base.is_floating_point():
                return base.clone()
            base = base.float()
            delta = ingredients.models[index][name].float() - base
            return base + masked(unified[name] - base, delta) * scales[index]

        return Computed(unified, make)

    return Merged(unified, by_model=[of_task(index) for index in range(count)])


def elected(deltas: list[torch.Tensor]) -> torch.Tensor:
    """The unified task vector: the elected sign times the largest magnitude that has it."""
    import torch

    signs = sum(deltas[1:], deltas[0]).sign()
    largest = torch.zeros_like(signs)
    for delta in deltas:
        largest = torch.maximum(largest, delta * signs)
    return largest * signs


def masked(unified: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    """The unified task vector where a task's own vector has its sign."""
    return unified * ((unified * delta) > 0)


EMR = MergeMethod(
    "emr",
    "EMR-Merging",
    "arXiv:2405.17461",
    merge,
    deploys="model per task",
    in_field=True,
    order=80,
)
