"""Whether a suspect contains an unmarked expert rather than one of its twins.

Twins are the expert trained again by the same recipe, with the last part of the data in another
order. If the suspect was made from none of them, nothing tells the expert from its twins, and each
of the K + 1 is the most similar with the same chance. So p = (1 + twins at least as similar) /
(K + 1) holds for any statistic that treats them alike; it cannot be smaller than 1 / (K + 1).

Source: ours; exchangeable retrainings as in Palimpsest (arXiv 2510.19796).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from unmergeable.errors import InputError
from unmergeable.tracing.comparison import Matrix
from unmergeable.tracing.statistic import bounded, unexplained


@dataclass(frozen=True)
class TwinResult:
    """How the expert compares with its twins.

    Attributes:
        twins: how many there are.
        p: the p-value, corrected for the suspects that were tried.
        similarity: of the expert: a cosine, after what all have in common is taken out.
        others: that of each twin.
        found: whether p is small enough.
    """

    twins: int
    p: float
    similarity: float
    others: tuple[float, ...]
    found: bool


def check_twins(count: int, error_rate: float, suspects: int) -> None:
    """Refuses fewer twins than an error rate needs.

    Raises:
        InputError: says how many it needs.
    """
    needed = math.ceil(suspects / error_rate - 1e-9) - 1
    if count < needed:
        raise InputError(
            f"{count} twins can show no p-value below {min(1.0, suspects / (count + 1)):.3g}; an "
            f"error rate of {error_rate:g} needs {needed}. Train more, or allow a larger "
            "--error-rate."
        )


class Twins:
    """Collects the similarities of an expert and its twins, matrix by matrix.

    Args:
        count: of twins.
    """

    def __init__(self, count: int) -> None:
        self._products = np.zeros(count + 1)
        self._squares = np.zeros(count + 1)
        self._rest = 0.0

    def add(self, matrix: Matrix) -> None:
        """Takes in one matrix: all of the K + 1 are treated alike."""
        group = np.array([matrix.expert, *matrix.twins])
        mean = group.mean(0)
        apart = group - mean
        spread = float(np.square(apart).sum())
        rest = unexplained(matrix.difference, [mean, *matrix.siblings.values()])
        rest, _ = bounded(rest, math.sqrt(spread / apart.size))
        size = float(np.dot(rest, rest))
        if not size or not spread:
            return
        weight = math.sqrt(rest.size / size)  # a matrix counts by its numbers
        unit = math.sqrt(rest.size * len(group) / spread)
        self._products += weight * unit * (apart @ rest)
        self._squares += unit**2 * np.square(apart).sum(1)
        self._rest += rest.size

    def result(self, error_rate: float, suspects: int) -> TwinResult:
        """The p-value, by rank."""
        found = self._products / np.sqrt(np.maximum(self._squares * self._rest, 1e-300))
        p = min(1.0, suspects * float((found >= found[0]).sum()) / len(found))
        others = tuple(float(one) for one in found[1:])
        return TwinResult(len(others), p, float(found[0]), others, p <= error_rate)
