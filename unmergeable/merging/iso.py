"""Isotropic merging: Iso-C and Iso-CTS (Marczak et al., ICML 2025, arXiv:2502.04959).

Iso-C replaces the singular values of the sum of the task matrices by their mean. Iso-CTS first
gives the weakest directions of the sum to each task's own strongest ones outside the common space
(sections 4.2 and 4.3). All but linear layers is averaged. The paper tunes α on validation data; the
default here is the official code's 1.

Where we differ: a direction whose singular value is zero is left out, not filled with an arbitrary
one of full strength; the mean still counts it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from unmergeable.errors import InputError
from unmergeable.merging.linear_layers import linear_layers
from unmergeable.merging.method import Ingredients, Merged, MergeMethod, Parameter, weight
from unmergeable.merging.svd import leading, orthogonalised, polar
from unmergeable.merging.task_vectors import added, coefficients, mean, total

if TYPE_CHECKING:
    import torch


def merge_c(ingredients: Ingredients, *, weight: Any) -> Merged:
    """Iso-C.

    Args:
        ingredients: weights alone.
        weight: the paper's α on the merged task vector; one per model weighs the sum.
    """
    return _merge(ingredients, weight, iso_c)


def merge_cts(ingredients: Ingredients, *, weight: Any, common: float) -> Merged:
    """Iso-CTS.

    Args:
        ingredients: weights alone.
        weight: as in `merge_c`.
        common: the paper's k/r, the share of directions that belong to the common space.
    """
    if not 0 <= common <= 1:
        raise InputError(f"common is {common!r}: give the common space's share, from 0 to 1.")
    return _merge(ingredients, weight, lambda deltas: iso_cts(deltas, common))


def _merge(
    ingredients: Ingredients, weight: Any, iso: Callable[[list[torch.Tensor]], torch.Tensor]
) -> Merged:
    weights = coefficients(weight, len(ingredients.models))
    linears = linear_layers(ingredients.layout)

    def one(name: str, deltas: list[torch.Tensor]) -> torch.Tensor:
        if name not in linears:
            return mean(deltas, weights)
        return iso([delta * weight for delta, weight in zip(deltas, weights, strict=True)])

    return Merged(added(ingredients, one))


def iso_c(deltas: list[torch.Tensor]) -> torch.Tensor:
    """The merge of one layer's task matrices: one singular value for all directions."""
    combined = total(deltas, [1.0] * len(deltas))
    if not combined.any():
        return combined
    directions, strength = polar(combined)
    return directions * (strength / min(combined.shape))


def iso_cts(deltas: list[torch.Tensor], common: float) -> torch.Tensor:
    """The same, after each task has got directions of its own."""
    import torch

    count, size = len(deltas), min(deltas[0].shape)
    # as the official code rounds: the tasks' shares are equal
    own = round((size - int(size * common)) / count)
    combined = total(deltas, [1.0] * count)
    if not combined.any():
        return combined
    u, s, vh = (
        part[..., : max(size - own * count, 0)] for part in _columns(leading(combined, size))
    )
    us, ss, vs = [], [], []
    for delta in deltas if own else []:
        rest = delta - u @ (u.T @ delta)
        if rest.any():
            parts = leading(rest, own)
            us.append(parts[0])
            ss.append(parts[1])
            vs.append(parts[2].T)
    s = torch.cat([*ss, s])
    left, right = orthogonalised(torch.cat([*us, u], 1)), orthogonalised(torch.cat([*vs, vh], 1))
    return (left @ right.T) * (s.sum() / size)


def _columns(
    parts: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """U, S and V, directions along the last axis of each."""
    return parts[0], parts[1], parts[2].T


ISO_C = MergeMethod(
    "iso_c", "Iso-C", "arXiv:2502.04959", merge_c, {"weight": weight(1.0)}, in_field=True, order=20
)
ISO_CTS = MergeMethod(
    "iso_cts",
    "Iso-CTS",
    "arXiv:2502.04959",
    merge_cts,
    {
        "weight": weight(1.0),
        "common": Parameter("the share of directions that belong to the common space", 0.8),
    },
    order=30,
)
