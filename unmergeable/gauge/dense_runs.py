"""The dense blocks of a map's rows, taken apart into the smallest that still mix.

Rotary planes, whose two parts lie half a head apart, are one dense block of a head's size as a map
of an axis has them, and nearly all of that block is zero. With its positions in another order it
is many blocks of two, which take a hundredth of the multiplications.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from unmergeable.gauge.axis_map import AxisMap, Float, Index


@dataclass(frozen=True, eq=False)
class DenseRun:
    """A stretch of new positions that scales or blocks of one width make.

    Attributes:
        places: its positions, those that a block makes one after the other.
        factor: scales of shape (k,), or k blocks of shape (k, w, w) for k * w positions.
    """

    places: Index
    factor: Float

    def blocks(self, start: int, stop: int, wanted: int) -> Iterator[tuple[Index, Float]]:
        """Cuts what lies in a stretch of positions, which cuts through no block of the map.

        Args:
            start: of the stretch.
            stop: behind it.
            wanted: positions at a time, if no block has more.

        Yields:
            Positions, and the part of the factor that makes them.
        """
        begin = int(self.places.min())
        first, last = max(start - begin, 0), min(stop - begin, len(self.places))
        width = 1 if self.factor.ndim == 1 else self.factor.shape[1]
        step = max(1, wanted // width) * width
        for low in range(first, last, step):
            high = min(low + step, last)
            yield self.places[low:high], self.factor[low // width : high // width]


def dense_runs(change: AxisMap) -> list[DenseRun]:
    """The runs of a map's factors that are not empty, in order, with blocks as small as may be."""
    runs, start = [], 0
    for factor in change.factors:
        if not len(factor):
            continue
        if factor.ndim == 1:
            runs.append(DenseRun(np.arange(start, start + len(factor)), factor))
        else:
            runs.append(_apart(factor, start))
        start += len(runs[-1].places)
    return runs


def _apart(factor: Float, start: int) -> DenseRun:
    count, width = factor.shape[:2]
    members = _mixing(factor)
    size = members.shape[1]
    places = start + width * np.arange(count)[:, None] + members.reshape(-1)
    smaller = factor[:, members[:, :, None], members[:, None, :]].reshape(-1, size, size)
    return DenseRun(places.reshape(-1), smaller)


def _mixing(factor: Float) -> Index:
    """The positions that no others mix with, in any of the blocks: shape (parts, size)."""
    width = factor.shape[1]
    whole = np.arange(width)[None]
    if 2 * np.count_nonzero(factor) > factor.size:  # of two parts, half would be zero
        return whole
    mixes = (factor != 0).any(axis=0)
    mixes |= mixes.T
    labels, before = np.arange(width), None
    while before is None or (labels != before).any():
        before = labels
        labels = np.minimum(labels, np.where(mixes, labels, width).min(axis=1))
    order = np.argsort(labels, kind="stable")
    counts = np.unique(labels, return_counts=True)[1]
    return order.reshape(len(counts), -1) if (counts == counts[0]).all() else whole
