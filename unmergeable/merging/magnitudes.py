"""Dropping the smallest numbers of a task vector, and the largest, by selection instead of sorting.

mergekit sorts all magnitudes, which takes many times the vector's memory and most of the time of a
merge. Only two of them are needed: those at the ends of the range that stays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def drop_outside(vector: torch.Tensor, first: int, end: int, *, rescale: bool) -> torch.Tensor:
    """Sets to 0, in place, what is not among the magnitudes of ranks `first` up to `end`.

    Args:
        vector: a task vector of any shape, contiguous, floating point, on a processor.
        first: the lowest rank that stays, 0 for the smallest magnitude.
        end: one more than the highest.
        rescale: multiply what stays, so that the sum of magnitudes is what it was; left out where
            a sum is below 1e-7, as in mergekit.

    Returns:
        The vector. Among equal magnitudes at an end of the range the first in memory stay; which
        ones stay in mergekit depends on the machine.
    """
    import torch

    before = vector.abs().sum() if rescale else None
    magnitudes = vector.abs().float().reshape(-1).numpy()  # mergekit compares these
    vector.masked_fill_(torch.from_numpy(~_inside(magnitudes, first, end)).view_as(vector), 0)
    if before is not None:
        after = vector.abs().sum()
        if before >= 1e-7 and after >= 1e-7:
            vector *= before / after
    return vector


def _inside(magnitudes: np.ndarray, first: int, end: int) -> np.ndarray:
    """Which of them have ranks `first` up to `end`."""
    count = len(magnitudes)
    if first >= end:
        return np.zeros(count, dtype=bool)
    ranked = magnitudes.copy()
    ends = []
    for rank in (first, end - 1):
        ranked.partition(rank)
        ends.append(ranked[rank])
    low, high = ends
    del ranked
    inside: np.ndarray = (magnitudes > low) & (magnitudes < high)
    for value in {float(low), float(high)}:
        equal = np.flatnonzero(magnitudes == value)
        lowest = int(np.count_nonzero(magnitudes < value))  # their ranks begin here
        inside[equal[max(first - lowest, 0) : end - lowest]] = True
    return inside
