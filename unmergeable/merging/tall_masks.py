"""TALL-masks and Consensus Merging (Wang et al., ICML 2024, arXiv:2405.07813).

A task's mask keeps the numbers of the multi-task vector τ = Σ_i τ_i that are nearer to its own than
to none: |τ_i| > λ |τ − τ_i| (section 4). Compression deploys θ_0 + mask_i · τ for task i. Consensus
Merging deploys one model, without the numbers that fewer than k masks keep (section 5).

The paper chooses λ among 0.2 … 0.6 for each task on validation items; the default here is 0.4, the
middle. Its k is 2, which for two models keeps what both use. The coefficient of the merged vector
is chosen on validation items, too; the default is task arithmetic's 0.3. All tensors are treated
alike.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unmergeable.errors import InputError
from unmergeable.merging.method import Ingredients, Merged, MergeMethod, Parameter, weight
from unmergeable.merging.task_vectors import (
    Computed,
    added,
    coefficients,
    deltas,
    lazily_added,
    total,
)

if TYPE_CHECKING:
    import torch


def merge_consensus(ingredients: Ingredients, *, weight: Any, strength: float, k: int) -> Merged:
    """Consensus Merging with task arithmetic.

    Args:
        ingredients: weights alone.
        weight: of the merged task vector, or of each model's. The masks are made without it.
        strength: the masks' λ.
        k: how many tasks must use a number for it to stay.
    """
    count = len(ingredients.models)
    _check_strength(strength)
    if k < 0:
        raise InputError(f"k is {k}: give the number of tasks that must use a number, 0 or more.")
    weights = coefficients(weight, count)

    def one(name: str, parts: list[torch.Tensor]) -> torch.Tensor:
        summed = total(parts, [1.0] * count)
        votes = sum(mask(part, summed, strength).int() for part in parts)
        return total(parts, weights) * (votes >= k)

    return Merged(added(ingredients, one))


def merge_tall(ingredients: Ingredients, *, strength: float) -> Merged:
    """TALL-masks: a model for each task, made when it is asked for.

    Args:
        ingredients: weights alone.
        strength: the masks' λ.
    """
    _check_strength(strength)
    ones = [1.0] * len(ingredients.models)
    merged = lazily_added(ingredients, lambda name, parts: total(parts, ones))
    for _ in merged.values():
        pass  # raises where the sum is not finite

    def of_task(index: int) -> Computed[torch.Tensor]:
        def make(name: str) -> torch.Tensor:
            base = ingredients.base[name]
            if not base.is_floating_point():
                return base.clone()
            parts = deltas(ingredients, name)
            summed = total(parts, ones)
            return base.float() + summed * mask(parts[index], summed, strength)

        return Computed(merged, make)

    return Merged(merged, by_model=[of_task(index) for index in range(len(ones))])


def mask(delta: torch.Tensor, summed: torch.Tensor, strength: float) -> torch.Tensor:
    """Where the multi-task vector is a task's own more than none: bool."""
    return delta.abs() > (summed - delta).abs() * strength


def _check_strength(strength: float) -> None:
    if strength < 0:
        raise InputError(f"strength is {strength!r}: give the masks' λ, 0 or more.")


STRENGTH = Parameter("the λ of the masks", 0.4)
TALL_MASKS = MergeMethod(
    "tall_masks",
    "TALL-masks",
    "arXiv:2405.07813",
    merge_tall,
    {"strength": STRENGTH},
    order=90,
    deploys="model per task",
)
CONSENSUS_TA = MergeMethod(
    "consensus_ta",
    "Consensus Merging",
    "arXiv:2405.07813",
    merge_consensus,
    {
        "weight": weight(0.3),
        "strength": STRENGTH,
        "k": Parameter("how many tasks must use a number for it to stay", 2),
    },
    sweep=({}, {"k": 1}),
    order=50,
)
