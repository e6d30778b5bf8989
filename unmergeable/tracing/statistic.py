"""The statistic of a mark, and a p-value that holds for every suspect made without the key.

Given the suspect, everything is fixed but the signs s, and these are independent and uniform for
anyone who made it without the key. So with a_i = c_i * r_i, where r is what the suspect differs
from the base by and c any weights, z = sum a_i s_i / sqrt(sum a_i^2) has P(z >= t) <= exp(-t^2 / 2)
(Hoeffding's inequality for Rademacher sums). No reference population is needed.

The weights are one for each matrix, and chosen so that none drowns the others: a matrix counts by
how many numbers it has, not by their size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unmergeable.gauge.floats import Float

INTERVAL = 1.96  # standard errors on either side of a weight
_OCTAVES = 64  # above the least limit: what is larger is clipped there
_PAYS = 1.1  # times as much must be found with a limit as without one
_SAME = 1e-8  # of a direction's length: what is left of it that earlier ones explain


@dataclass(frozen=True)
class SignStatistic:
    """Sums over some tensors' numbers; they add up.

    Attributes:
        product: sum of c * r * s, where c is a tensor's weight.
        square: sum of c^2 * r^2.
        marked: sum of c * m, where m is the size of the full mark: what `product` is expected to be
            if the expert is inside with weight 1.
        count: numbers.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> signs = rng.choice([-1, 1], 10_000).astype(np.int8)
        >>> found = SignStatistic.of(rng.normal(size=10_000) + 0.1 * signs, signs, 0.1)
        >>> found.z > 5
        True
    """

    product: float = 0.0
    square: float = 0.0
    marked: float = 0.0
    count: int = 0

    @classmethod
    def of(
        cls, rest: Float, signs: npt.NDArray[np.int8], mark: float, share: float = 1.0
    ) -> SignStatistic:
        """Of one tensor.

        Args:
            rest: what the suspect differs from the base by, without what is explained by known
                models, shape (n,).
            signs: of the mark, shape (n,).
            mark: what the marked expert differs from the unmarked one by, in each number.
            share: of the numbers that were not clipped: the others say nothing of the weight.
        """
        if not mark:
            return cls()
        usual = math.sqrt(float(np.mean(np.square(rest))))
        weight = 1 / max(usual, mark)  # what is smaller than a mark is not made large
        product = weight * float(np.dot(rest, signs))
        square = weight**2 * float(np.dot(rest, rest))
        return cls(product, square, weight * mark * share * rest.size, rest.size)

    def __add__(self, other: SignStatistic) -> SignStatistic:
        return SignStatistic(
            self.product + other.product,
            self.square + other.square,
            self.marked + other.marked,
            self.count + other.count,
        )

    @property
    def z(self) -> float:
        """How many standard deviations the sum is above what chance makes it; 0 of nothing."""
        return self.product / math.sqrt(self.square) if self.square > 0 else 0.0

    def log10_p(self, tests: int = 1) -> float:
        """The decimal logarithm of the p-value, at most 0.

        Args:
            tests: how many marks, suspects and keys were tried in all (Bonferroni).
        """
        bound = -(max(self.z, 0.0) ** 2) / 2 / math.log(10)
        return min(0.0, bound + math.log10(tests))

    @property
    def weight(self) -> tuple[float, float, float]:
        """With what weight the expert is inside: an estimate and its 95 % interval."""
        if not self.marked:
            return 0.0, 0.0, 0.0
        found, error = self.product / self.marked, math.sqrt(self.square) / self.marked
        return found, found - INTERVAL * error, found + INTERVAL * error


def bounded(numbers: Float, least: float) -> tuple[Float, float]:
    """Clips numbers so that a few wild ones hide no mark; NaN is zero.

    What is dead in a model may be set to anything unseen. A limit L lets the mark through in the
    numbers below it and noise of sum min(x^2, L^2) through in all: the limit that makes the share
    of the first largest is taken, if it pays. The signs have no part in it, so the p-value holds.

    Args:
        numbers: shape (n,).
        least: the smallest limit; nothing is clipped if it is zero.

    Returns:
        The numbers, and which share of them was not clipped.
    """
    found = np.nan_to_num(numbers, posinf=np.inf, neginf=-np.inf)
    if not least or not found.size:
        return np.nan_to_num(found, posinf=0, neginf=0), 1.0
    size = np.abs(found) / least
    octave = np.clip(np.frexp(np.minimum(size, 2.0**_OCTAVES))[1], 0, _OCTAVES)
    counts = np.bincount(octave, minlength=_OCTAVES + 1)
    below = np.bincount(octave, np.minimum(size, 2.0**_OCTAVES) ** 2, _OCTAVES + 1)
    limits = 2.0 ** np.arange(_OCTAVES + 1)
    counts[0] -= int((size == 0).sum())  # where nothing is, no mark is let through
    inside = np.cumsum(counts)
    noise = np.cumsum(below) + (inside[-1] - inside) * limits**2
    gain = inside / np.sqrt(np.maximum(noise, 1e-300))
    best = int(np.argmax(gain))
    if np.isfinite(found).all() and gain[best] < _PAYS * gain[-1]:
        return found, 1.0
    limit = least * limits[best]
    return np.clip(found, -limit, limit), float(np.mean(np.abs(found) <= limit))


def unexplained(difference: Float, known: list[Float]) -> Float:
    """What is left of a difference once known directions are taken out of it (least squares).

    The signs have no part in it, so the p-value holds whatever is taken out.

    Args:
        difference: of the suspect to the base, shape (n,).
        known: task vectors of the unmarked expert and of siblings, shape (n,) each.
    """
    left = difference
    basis: list[Float] = []
    for vector in known:
        least = _SAME * float(np.linalg.norm(vector))
        for one in basis:
            vector = vector - np.dot(one, vector) * one
        norm = float(np.linalg.norm(vector))
        if norm > least:
            basis.append(vector / norm)
            left = left - np.dot(basis[-1], left) * basis[-1]
    return left
