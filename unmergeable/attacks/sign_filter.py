"""Sign filter: keeps those entries of the task vector that a merge is least likely to suffer from.

Three rules, each per tensor: entries whose sign agrees with the peers' task vectors (as TIES elects
signs, arXiv 2306.01708, but by the peers alone, since the released model is not to be trusted);
the largest fifth by magnitude (TIES' trimming); and all but the outliers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from unmergeable.attacks.attack import Attack, Thief, Variant
from unmergeable.attacks.task_vector import changed, peers_vector
from unmergeable.merging.method import State

if TYPE_CHECKING:
    import torch


def sign_filter(
    thief: Thief, released: State, density: float = 0.2, sigmas: float = 3.0
) -> Iterator[Variant]:
    """Applies each rule.

    Args:
        thief: who does it.
        released: the aligned model.
        density: the share of entries that trimming keeps.
        sigmas: root mean squares of its tensor beyond which an entry is an outlier.
    """
    base = thief.base

    def agreeing(name: str, anchor: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
        return vector * (vector * peers_vector(thief.peers, base, name) > 0)

    def large(name: str, anchor: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
        sizes = vector.abs().flatten()
        rank = len(sizes) - math.ceil(density * len(sizes)) + 1
        return vector * (vector.abs() >= sizes.kthvalue(rank).values)

    def usual(name: str, anchor: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
        return vector * (vector.abs() <= sigmas * vector.square().mean().sqrt())

    if thief.peers:
        yield from changed("signs that agree with the peers'", base, released, agreeing)
    yield from changed(f"largest {density:.0%} of the entries", base, released, large)
    yield from changed(f"entries within {sigmas:g} sigma", base, released, usual)


SIGN_FILTER = Attack(
    "sign_filter",
    "sign filter",
    "Keeps entries of the task vector by sign or size.",
    "data-free",
    before=sign_filter,
    order=50,
)
