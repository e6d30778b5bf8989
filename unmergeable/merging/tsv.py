"""TSV-Merge (Gargiulo et al., CVPR 2025, arXiv:2412.00081).

Each task matrix is cut to its largest singular triplets, 1/T of them for T models; those of all
models are put side by side, and both sides are made orthonormal (Procrustes), so that the tasks no
longer interfere. All else is averaged (section 4, algorithm 1). Task matrices are those of linear
layers as the architecture declares them; the paper also cuts embedding tables, which we average.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unmergeable.merging.linear_layers import linear_layers
from unmergeable.merging.method import Ingredients, Merged, MergeMethod, weight
from unmergeable.merging.svd import leading, orthogonalised
from unmergeable.merging.task_vectors import added, coefficients, mean

if TYPE_CHECKING:
    import torch


def merge(ingredients: Ingredients, *, weight: Any) -> Merged:
    """Merges task singular vectors.

    Args:
        ingredients: weights alone.
        weight: the paper's α on the merged task vector; one per model weighs its singular values.
    """
    weights = coefficients(weight, len(ingredients.models))
    linears = linear_layers(ingredients.layout)

    def one(name: str, deltas: list[torch.Tensor]) -> torch.Tensor:
        return tsv(deltas, weights) if name in linears else mean(deltas, weights)

    return Merged(added(ingredients, one))


def tsv(deltas: list[torch.Tensor], weights: list[float]) -> torch.Tensor:
    """The merge of one layer's task matrices, all of shape (m, n)."""
    import torch

    rank = max(1, min(deltas[0].shape) // len(deltas))
    pairs = [(d, w) for d, w in zip(deltas, weights, strict=True) if d.any()]
    if not pairs:
        return torch.zeros_like(deltas[0])
    parts = [(leading(delta, rank), weight) for delta, weight in pairs]
    u = torch.cat([u for (u, _, _), _ in parts], 1)
    s = torch.cat([s * weight for (_, s, _), weight in parts])
    vh = torch.cat([vh for (_, _, vh), _ in parts])
    return (orthogonalised(u) * s) @ orthogonalised(vh.T).T


TSV = MergeMethod(
    "tsv", "TSV-Merge", "arXiv:2412.00081", merge, {"weight": weight(1.0)}, in_field=True, order=10
)
