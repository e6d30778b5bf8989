"""KnOTS (Stoica et al., ICLR 2025, arXiv:2410.19735): adapters merged in a space they share.

Low-rank adapters of one base are hardly aligned. KnOTS puts the adapters' deltas of a layer side by
side along the input, takes their singular value decomposition U S [V_1 … V_n]ᵀ, and merges the
S V_iᵀ, which now stand in one space, by any method; U brings the result back (section 4). Merged by
TIES over all layers at once, as in the official code: the 20 % of each model's numbers that are
largest stay, signs are elected, and the mean of those that agree is taken, times `weight` (0.6 in
their ViT-B/32 experiments). By a sum it is task arithmetic, as U S V_iᵀ is the delta itself.

It is meant for adapters; on whole models it does to the task vectors of linear layers what it does
to adapters' deltas, and averages the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from unmergeable.errors import InputError
from unmergeable.merging.linear_layers import linear_layers
from unmergeable.merging.method import Ingredients, Merged, MergeMethod
from unmergeable.merging.svd import leading
from unmergeable.merging.task_vectors import (
    Computed,
    added,
    check,
    coefficients,
    deltas,
    mean,
    total,
)
from unmergeable.models.offloaded_state import OffloadedState

if TYPE_CHECKING:
    import torch

By = Literal["ties", "sum"]


def merge(ingredients: Ingredients, *, weight: Any, keep: float, by: By) -> Merged:
    """Merges task vectors in the shared space.

    Args:
        ingredients: weights alone.
        weight: of the merged task vector; one per model multiplies the task vectors before.
        keep: the share of each model's numbers that TIES keeps.
        by: "ties", or "sum" for task arithmetic.
    """
    check(ingredients)
    linears = linear_layers(ingredients.layout)

    def parts_of(name: str) -> list[torch.Tensor]:
        return [linears[name].matrix(delta) for delta in deltas(ingredients, name)]

    layers = Computed(linears, parts_of)
    merged = merge_deltas(layers, weight=weight, keep=keep, by=by)
    weights = coefficients(weight, len(ingredients.models))

    def one(name: str, parts: list[torch.Tensor]) -> torch.Tensor:
        return linears[name].matrix(merged[name]) if name in linears else mean(parts, weights)

    return Merged(added(ingredients, one))


def merge_deltas(
    layers: Mapping[str, Sequence[torch.Tensor]],
    *,
    weight: Any = 0.6,
    keep: float = 0.2,
    by: By = "ties",
) -> dict[str, torch.Tensor]:
    """Merges the adapters' deltas of every layer; see `adapters.read_adapter` for those of PEFT.

    Args:
        layers: by the weight's name, each model's delta, shape (out, in).
        weight: as in `merge`.
        keep: as in `merge`.
        by: as in `merge`.

    Returns:
        By the weight's name, the merged delta.
    """
    if not 0 < keep <= 1 or by not in ("ties", "sum"):
        raise InputError(
            f"knots got keep={keep!r}, by={by!r}: keep is a share from 0 to 1, by is ties or sum."
        )
    if not layers:
        return {}
    count = len(layers[next(iter(layers))])
    weights = coefficients(weight, count)
    if by == "sum":
        return {name: total(list(parts), weights) for name, parts in layers.items()}
    kept = OffloadedState(_decomposed(layers, weights))  # more than the models themselves take

    def shared(name: str) -> list[torch.Tensor]:
        return [kept[f"{name}/{index}"] for index in range(count)]

    def all_of(index: int) -> Callable[[], Iterable[torch.Tensor]]:
        return lambda: (kept[f"{name}/{index}"] for name in layers)

    cuts = [_cut(all_of(index), keep) for index in range(count)]
    signs = (float(_sum(_trimmed(shared(name), cuts)).sign().sum()) for name in layers)
    majority = 1.0 if sum(signs) >= 0 else -1.0  # for numbers whose own sign is a tie
    return {name: kept[f"{name}/u"] @ _ties(shared(name), cuts, majority) for name in layers}


def _decomposed(
    layers: Mapping[str, Sequence[torch.Tensor]], weights: Sequence[float]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Of every layer U, as NAME/u, and each model's part of the rest, as NAME/INDEX."""
    for name, parts in layers.items():
        u, shared = in_shared_space([d * w for d, w in zip(parts, weights, strict=True)])
        yield f"{name}/u", u
        for index, part in enumerate(shared):
            yield f"{name}/{index}", part


def in_shared_space(parts: Sequence[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """U, and each model's S V_iᵀ: U @ S V_iᵀ is its delta."""
    import torch

    side_by_side = torch.cat(list(parts), 1)
    if not side_by_side.any():
        return side_by_side[:, :0], [part[:0] for part in parts]
    u, s, vh = leading(side_by_side, min(side_by_side.shape))
    return u, list((s[:, None] * vh).split(parts[0].shape[1], 1))


def _cut(parts: Callable[[], Iterable[torch.Tensor]], keep: float) -> float:
    """The magnitude from which on a model's numbers are among the largest.

    That is an order statistic of all its layers together. Found digit by digit: of numbers that are
    not negative, the bits of float32 are in the numbers' own order.
    """
    import torch

    count = sum(part.numel() for part in parts())
    if not count:
        return 0.0
    rank, prefix = count - max(1, int(count * keep)), 0  # this many numbers are smaller
    for shift in (16, 0):
        found = torch.zeros(1 << 16, dtype=torch.int64)
        for part in parts():
            bits = part.float().abs().reshape(-1).view(torch.int32)
            if shift == 0:
                bits = bits[bits >> 16 == prefix] & 0xFFFF
            found += torch.bincount(bits >> shift, minlength=1 << 16).cpu()
        below = found.cumsum(0)
        digit = int(torch.searchsorted(below, rank, right=True))
        rank -= int(below[digit - 1]) if digit else 0
        prefix = prefix << 16 | digit
    return float(torch.tensor(prefix, dtype=torch.int32).view(torch.float32))


def _sum(parts: list[torch.Tensor]) -> torch.Tensor:
    first, *rest = parts
    return sum(rest, first)


def _trimmed(parts: list[torch.Tensor], cuts: list[float]) -> list[torch.Tensor]:
    return [part * (part.abs() >= cut) for part, cut in zip(parts, cuts, strict=True)]


def _ties(parts: list[torch.Tensor], cuts: list[float], majority: float) -> torch.Tensor:
    import torch

    trimmed = torch.stack(_trimmed(parts, cuts))
    sign = trimmed.sum(0).sign()
    sign = sign.where(sign != 0, sign.new_full((), majority))
    agreeing = trimmed * (trimmed * sign > 0)
    return agreeing.sum(0) / (agreeing != 0).sum(0).clamp_min(1)


KNOTS = MergeMethod(
    "knots",
    "KnOTS-TIES",
    "arXiv:2410.19735",
    merge,
    {"weight": 0.6, "keep": 0.2, "by": "ties"},
    adapters=True,
)
