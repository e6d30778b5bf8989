"""RegMean (Jin et al., ICLR 2023, arXiv:2212.09849).

Each linear layer becomes the one whose outputs are nearest to every model's own on that model's
own inputs: W = (Σ_i W_i G_i)(Σ_i G_i)⁻¹, where G_i is the Gram matrix of what model i's layer reads
with its off-diagonal numbers times `scale` (section 3). All else is averaged. As in the official
code, G_i is the mean over tokens, so that models count alike however long their texts are.

Where the inputs leave directions out, the paper's inverse does not exist; we solve for the
difference from the plain average, which then stays there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from unmergeable.errors import InputError
from unmergeable.merging.linear_layers import grams, linear_layers, running
from unmergeable.merging.method import Ingredients, Merged, MergeMethod, Parameter
from unmergeable.merging.regression import Fit
from unmergeable.merging.task_vectors import check, finite, lazily_added, mean

if TYPE_CHECKING:
    import torch


def merge(ingredients: Ingredients, *, scale: float) -> Merged:
    """Regression mean.

    Args:
        ingredients: with a runner and inputs for each model.
        scale: the paper's α on the off-diagonal numbers of the Gram matrices.
    """
    if not 0 <= scale <= 1:
        raise InputError(f"scale is {scale!r}: give a number from 0 to 1.")
    check(ingredients)
    running(ingredients)
    linears = linear_layers(ingredients.layout)
    averaged = lazily_added(ingredients, lambda name, deltas: mean(deltas))
    fits = {name: Fit() for name in linears}
    for index, model in enumerate(ingredients.models):
        read = grams(ingredients, index, linears)
        for name in list(read):  # taken out, as all of them together are as large as the model
            gram = finite(read.pop(name), f"what {name} reads")
            difference = linears[name].matrix(model[name].float() - averaged[name])
            fits[name].add(_shrunk(gram, scale), difference)
    merged = {}
    for name, tensor in averaged.items():
        fit = fits.pop(name, None)
        merged[name] = tensor if fit is None else tensor + linears[name].matrix(fit.solve())
        finite(merged[name], name)
    return Merged(merged)


def _shrunk(gram: torch.Tensor, scale: float) -> torch.Tensor:
    import torch

    return gram * scale + torch.diag(gram.diagonal() * (1 - scale))


REGMEAN = MergeMethod(
    "regmean",
    "RegMean",
    "arXiv:2212.09849",
    merge,
    {"scale": Parameter("of the off-diagonal numbers of the Gram matrices", 0.9)},
    in_field=True,
    order=110,
    needs=frozenset({"inputs"}),
)
