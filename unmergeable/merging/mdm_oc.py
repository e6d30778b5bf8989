"""MDM-OC (arXiv:2507.20997): modular deltas, made orthogonal one after the other. A reconstruction.

Reconstructed from the abstract, which gives no formula: δ_i = θ_i − θ_0 as one vector, Gram–Schmidt
over the models in `order`, and θ = θ_0 + Σ_i α_i δ̃_i. The first delta stays what it is; of each
later one, what lies along the earlier ones is taken off. To un-merge a model, subtract its part
again (`remove`). The paper learns α on an objective we do not know, with elastic weight
consolidation and synthetic replay, which we leave out; with `steps` and inputs, α here follows the
gradient of the cross-entropy where there are labels, and of the answers' entropy where not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from unmergeable.errors import InputError
from unmergeable.merging.learning import Mixture, answered
from unmergeable.merging.method import Ingredients, Merged, MergeMethod, Parameter, State, weight
from unmergeable.merging.task_vectors import added, check, coefficients, deltas, floating, total

if TYPE_CHECKING:
    import torch

# A delta whose rest is this much shorter than itself lies in the earlier ones' span.
_NOTHING = 1e-5


def merge(
    ingredients: Ingredients,
    *,
    weight: Any,
    order: Sequence[int] | None,
    steps: int,
    rate: float,
) -> Merged:
    """Merges orthogonalised deltas.

    Args:
        ingredients: with `steps`, a runner and inputs for each model.
        weight: the α, in the order of the models; with `steps`, where they start.
        order: the models from first to last, counted from 0; default: as given.
        steps: of Adam on the α; 0 to leave them.
        rate: of Adam, per step.
    """
    check(ingredients)
    rows = orthogonal(ingredients, order)
    weights = coefficients(weight, len(rows))
    if steps:

        def directions(name: str) -> list[torch.Tensor]:
            parts = deltas(ingredients, name)
            return [total(parts, row) for row in rows]

        mixture = Mixture(ingredients, directions, weights)
        weights = mixture.learn(answered, steps, rate)[0].tolist()
    onto = _combined(rows, weights)
    return Merged(added(ingredients, lambda name, parts: total(parts, onto)))


def remove(
    ingredients: Ingredients,
    merged: State,
    index: int,
    *,
    weight: Any = 1.0,
    order: Sequence[int] | None = None,
) -> dict[str, torch.Tensor]:
    """Un-merges one model: subtracts its part.

    Args:
        ingredients: as they were merged.
        merged: the merge.
        index: of the model, from 0.
        weight: as it was merged.
        order: as it was merged.
    """
    rows = orthogonal(ingredients, order)
    weights = coefficients(weight, len(rows))
    onto = [weights[index] * number for number in rows[index]]
    return {
        name: tensor.float() - total(deltas(ingredients, name), onto)
        if tensor.is_floating_point()
        else tensor.clone()
        for name, tensor in merged.items()
    }


def orthogonal(
    ingredients: Ingredients, order: Sequence[int] | None = None
) -> list[tuple[float, ...]]:
    """The orthogonalised deltas, each as coefficients of the deltas themselves.

    So that no delta need be held: their inner products, tensor by tensor, tell all.
    """
    count = len(ingredients.models)
    order = list(range(count)) if order is None else list(order)
    if sorted(order) != list(range(count)):
        raise InputError(f"order is {order}: give each model from 0 to {count - 1} once.")
    gram = [[0.0] * count for _ in range(count)]
    for name in floating(ingredients.base):
        parts = [part.double().flatten() for part in deltas(ingredients, name)]
        for i in range(count):
            for j in range(i + 1):
                gram[i][j] += float(parts[i] @ parts[j])
                gram[j][i] = gram[i][j]

    def inner(a: Sequence[float], b: Sequence[float]) -> float:
        return sum(x * gram[i][j] * y for i, x in enumerate(a) for j, y in enumerate(b))

    rows: dict[int, tuple[float, ...]] = {}
    for index in order:
        row = tuple(float(i == index) for i in range(count))
        for earlier in rows.values():
            if length := inner(earlier, earlier):
                share = inner(row, earlier) / length
                row = tuple(x - share * y for x, y in zip(row, earlier, strict=True))
        small = inner(row, row) <= _NOTHING**2 * gram[index][index]
        rows[index] = (0.0,) * count if small else row
    return [rows[index] for index in range(count)]


def _combined(rows: list[tuple[float, ...]], weights: list[float]) -> list[float]:
    """Σ_i α_i δ̃_i as coefficients of the deltas."""
    return [
        sum(weight * row[j] for weight, row in zip(weights, rows, strict=True))
        for j in range(len(rows))
    ]


MDM_OC = MergeMethod(
    "mdm_oc",
    "MDM-OC (reconstruction)",
    "arXiv:2507.20997",
    merge,
    {
        "weight": weight(1.0, "of each model"),
        "order": Parameter("the models from first to last, counted from 0", None, "as given"),
        "steps": Parameter("of Adam on the weights, which needs inputs", 0),
        "rate": Parameter("of Adam, per step", 1e-2),
    },
    sweep=({}, {"order": (1, 0)}),
    order=60,
)
