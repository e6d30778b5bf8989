"""LOT-Merging (Sun et al., NeurIPS 2025, arXiv:2505.23859): layer-wise optimal task vectors.

Each layer gets the task vector that makes its features drift least from every model's own, on a few
inputs of each (16 to 64 in the paper), from closed forms (section 4):

- a matrix, in the paper's right multiplication: T = (Σ X_iᵀX_i)⁺ Σ X_iᵀX_i T_i (equation 9);
- a gain, number by number: T = Σ x_i² T_i / Σ x_i², where x_i is what it multiplies (equation 12);
- what is added, such as biases: the mean of the task vectors (equation 14).

θ = θ_0 + λ T, with λ = 1 unless tuned. The X_i are what each model's own layers read.

Where the paper is silent: tables of embeddings get the mean; and sums are means over tokens, so
that models count alike however long their texts are. The pseudo-inverse is the limit of ridge
regression, taken at a small ridge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unmergeable.merging.linear_layers import grams, linear_layers, running, visit
from unmergeable.merging.method import Ingredients, Merged, MergeMethod, State, weight
from unmergeable.merging.regression import Fit
from unmergeable.merging.task_vectors import check, coefficients, finite, lazily_added, mean

if TYPE_CHECKING:
    import torch


def merge(ingredients: Ingredients, *, weight: Any) -> Merged:
    """Minimises the feature drift.

    Args:
        ingredients: with a runner and inputs for each model.
        weight: the paper's λ; one per model multiplies the task vectors before they are merged.
    """
    check(ingredients)
    running(ingredients)
    weights = coefficients(weight, len(ingredients.models))
    linears, gains = linear_layers(ingredients.layout), _gains(ingredients)
    averaged = lazily_added(ingredients, lambda name, deltas: mean(deltas, weights))
    fits = {name: Fit() for name in linears}
    above: dict[str, torch.Tensor] = {}
    below: dict[str, torch.Tensor] = {}
    for index, (model, factor) in enumerate(zip(ingredients.models, weights, strict=True)):

        def change(name: str, model: State = model, factor: float = factor) -> torch.Tensor:
            return finite(model[name].float() - ingredients.base[name].float(), name) * factor

        read = grams(ingredients, index, linears)
        for name in list(read):  # taken out, as all of them together are as large as the model
            gram = finite(read.pop(name), f"what {name} reads")
            fits[name].add(gram, linears[name].matrix(change(name)))
        for name, squares in _squares(ingredients, index, gains).items():
            above[name] = above.get(name, 0) + squares * change(name)
            below[name] = below.get(name, 0) + squares
    merged = {}
    for name, base in ingredients.base.items():
        if name in linears:
            solved = linears[name].matrix(fits.pop(name).solve())
            merged[name] = finite(base.float() + solved, name)
        elif name in above:
            seen = below[name] > 0
            best = (above[name] / below[name].where(seen, below[name].new_ones(()))).where(
                seen, averaged[name] - base.float()
            )
            merged[name] = finite(base.float() + best, name)
        else:
            merged[name] = averaged[name]
    return Merged(merged)


def _gains(ingredients: Ingredients) -> list[str]:
    """The tensors that multiply number by number: one axis that follows a space's order.

    The bias of a gated layer's gate does so, too, and is told by its name: it is added.
    """
    return [
        name
        for name, placement in ingredients.layout.placements.items()
        if len(placement.rule.axes) == 1
        and getattr(placement.rule.axes[0], "side", "") == "order"
        and not name.endswith("bias")
    ]


def _squares(ingredients: Ingredients, index: int, names: list[str]) -> dict[str, torch.Tensor]:
    """The mean square of what each gain of one model multiplies, on the model's own inputs."""
    model = ingredients.models[index]
    sums: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}

    def look(name: str, x: torch.Tensor, out: torch.Tensor, keep: torch.Tensor | None) -> None:
        gain = model[name].to(out).float()
        shift = model.get(name.removesuffix("weight") + "bias")
        rows = (out if keep is None else out[keep]).reshape(-1, out.shape[-1]).float()
        if shift is not None:
            rows = rows - shift.to(rows)
        # what a gain of zero multiplies cannot be told from the output; it weighs nothing
        rows = rows / gain.where(gain != 0, gain.new_full((), float("inf")))
        total = rows.square().sum(0)
        sums[name] = sums[name] + total if name in sums else total
        counts[name] = counts.get(name, 0) + len(rows)

    visit(ingredients, index, names, look)
    return {
        name: finite(total / max(counts[name], 1), f"what {name} multiplies")
        for name, total in sums.items()
    }


LOT = MergeMethod(
    "lot",
    "LOT-Merging",
    "arXiv:2505.23859",
    merge,
    {"weight": weight(1.0)},
    order=120,
    needs=frozenset({"inputs"}),
)
