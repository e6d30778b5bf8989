"""What brings rows to the base's length, where a model does not see how long they are."""

from __future__ import annotations

import numpy as np

from unmergeable.gauge.axis_map import Float
from unmergeable.gauge.fit import ROUNDING, Sums, power_of_two

# One number tells little of many: one, or a power of two, explains rows if it leaves no more than
# so many times what the best number does.
_EXPLAINED = 1.1


def longer(sums: Sums, before: Float) -> Float:
    """What brings rows to the base's length: one if that explains them, or a power of two, or any.

    Args:
        sums: of the rows of each norm, as long as they are taken to be.
        before: what they are multiplied by already.
    """
    told = (sums.inner > 0) & (sums.moved > 0)
    free = np.where(told, sums.inner, 1) / np.where(told, sums.moved, 1)
    limit = _EXPLAINED * np.maximum(sums.errors(free), 0) + 2 * ROUNDING * sums.anchor
    found = free
    for simple in (power_of_two(free * before) / before, 1 / before):
        found = np.where(sums.errors(simple) <= limit, simple, found)
    return np.asarray(found)
