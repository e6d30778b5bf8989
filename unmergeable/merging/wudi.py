"""WUDI-Merging (Cheng et al., ICML 2025, arXiv:2503.08099).

A layer's task vectors τ_i span, nearly, what the layer read in fine-tuning. So what the merged task
vector τ adds to τ_i disturbs task i by (τ − τ_i) τ_iᵀ, and WUDI minimises
Σ_i ‖(τ − τ_i) τ_iᵀ‖² / ‖τ_i‖² over each linear layer by gradient descent from τ = Σ_i τ_i, without
any data (section 4). All else is averaged. Adam's settings are the official code's.

The paper's 300 steps take a CPU seconds each on a model of 100 million numbers. Adam moves a number
by at most its rate a step, so fewer steps want a higher rate: in a block of SmolLM2's, the paper's
steps leave 4.3 % of the interference that the descent starts from, 60 at 5e-5 leave 4.7 %, and 30
at 1e-4, as an audit takes them, 6.1 % (`benchmarks/wudi_steps.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unmergeable.errors import InputError
from unmergeable.merging.linear_layers import linear_layers
from unmergeable.merging.method import Ingredients, Merged, MergeMethod
from unmergeable.merging.task_vectors import added, coefficients, mean, total

if TYPE_CHECKING:
    import torch


def merge(ingredients: Ingredients, *, weight: Any, steps: int, rate: float) -> Merged:
    """Minimises the interference.

    Args:
        ingredients: weights alone.
        weight: multiplies the models' task vectors before they are merged; the paper has none.
        steps: of Adam.
        rate: of Adam, per step.
    """
    if steps < 0 or rate <= 0:
        raise InputError(f"wudi got steps={steps}, rate={rate}: give 0 and more, more than 0.")
    weights = coefficients(weight, len(ingredients.models))
    linears = linear_layers(ingredients.layout)

    def one(name: str, deltas: list[torch.Tensor]) -> torch.Tensor:
        if name not in linears:
            return mean(deltas, weights)
        side = linears[name].matrix
        scaled = [side(delta) * weight for delta, weight in zip(deltas, weights, strict=True)]
        return side(least_interference(scaled, steps, rate))

    return Merged(added(ingredients, one))


def least_interference(
    deltas: list[torch.Tensor], steps: int = 300, rate: float = 1e-5
) -> torch.Tensor:
    """The merge of one layer's task vectors, all of shape (out, in)."""
    import torch

    merged = total(deltas, [1.0] * len(deltas))
    grams = [_gram(delta) for delta in deltas]
    # the gradient of the quadratic, without the task vectors: 2 (τ Σ G_i − Σ τ_i G_i)
    metric = total(grams, [1.0] * len(grams))
    target = torch.zeros_like(merged)
    for delta, gram in zip(deltas, grams, strict=True):
        target += delta @ gram
    optimiser = torch.optim.Adam([merged], lr=rate)
    for _ in range(steps):
        merged.grad = (merged @ metric).sub_(target).mul_(2)
        optimiser.step()
    merged.grad = None
    return merged


def interference(merged: torch.Tensor, deltas: list[torch.Tensor]) -> float:
    """The loss that is minimised, of one layer."""
    return sum(
        float(((merged - delta) @ delta.T).square().sum() / delta.square().sum())
        for delta in deltas
        if delta.any()
    )


def _gram(delta: torch.Tensor) -> torch.Tensor:
    """τᵀτ / ‖τ‖², shape (in, in)."""
    import torch

    norm = torch.linalg.vector_norm(delta)
    if not norm:
        return delta.new_zeros(delta.shape[1], delta.shape[1])
    unit: torch.Tensor = delta / norm
    return unit.T @ unit


WUDI = MergeMethod(
    "wudi",
    "WUDI-Merging",
    "arXiv:2503.08099",
    merge,
    {"weight": 1.0, "steps": 300, "rate": 1e-5},
)
