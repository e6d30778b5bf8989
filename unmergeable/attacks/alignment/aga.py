"""AGA as coded: least squares per head, for each of Q, K, V and O on its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unmergeable.attacks.alignment.method import Method
from unmergeable.gauge.axis_map import AxisMap, Float
from unmergeable.gauge.fit import fit
from unmergeable.gauge.groups import Group, Linear, Rotary, RotaryTurns
from unmergeable.gauge.matching import assign, products
from unmergeable.gauge.parts import Real
from unmergeable.gauge.views import View, matrices, of_sides

RIDGE = 1e-8


class Aga(Method):
    """Regresses each head's Q, K, V and O on the base's; permutes neurons by cosine.

    With X the protected head transposed and Y the base's, T solves (X'X + 1e-8 I) T = X'Y in
    float64. The four matrices of a head get four independent T, so the result is *not* the
    protected model any more: T_Q is not the inverse transpose of T_K, and a part of the
    fine-tuning, d_h/d of its square, is fitted away. Biases are moved along and not fitted. Neurons
    are assigned by the cosines of the rows that enter the activation. Source: "On the Vulnerability
    of Parameter-Level Defenses to Model Merging" (AGA, arXiv 2606.30360), the authors' code for
    CLIP ViT-B/32. Ours, where that code has no answer: under grouped-query attention the query
    heads of a group share one T, as they share the lock's element; in a gated FFN the rows are the
    gate's, and scales on the other pair stay; there is no restriction under rotary positions, but
    where norms, clamps or gates leave no dense matrix, our fit, as gains must follow.
    """

    name = "aga"
    order = 40
    sentence = "ridge least squares per head, Q, K, V and O each on its own; FFN by cosines"
    source = "AGA, arXiv 2606.30360, as coded"

    def inside(self, group: Group, views: Sequence[View]) -> AxisMap:
        """One regression for what writes into the space, another for what reads from it."""
        turns = isinstance(group, RotaryTurns) and group.parts is not None
        if turns or not isinstance(group, Linear | Rotary):
            return fit(group, views)
        weights = matrices(views)
        write, read = (_regression(of_sides(weights, side)) for side in ("write", "read"))
        block = AxisMap.block(write)
        return Unpaired(block.source, block.factors, AxisMap.block(read))

    def neurons(self, group: Group, views: Sequence[View]) -> AxisMap:
        """The permutation with the largest sum of cosines."""
        weights = matrices(views)
        (view, *_) = of_sides(weights, "order") or of_sides(weights, "write")
        return AxisMap.monomial(assign(products(_unit(view.anchor), _unit(view.moved))))


@dataclass(frozen=True, eq=False)
class Unpaired(AxisMap):
    """A map whose reading side is not its inverse transpose: no change of coordinates any more.

    Attributes:
        reading: what axes undergo that read the space.
    """

    reading: AxisMap

    @property
    def dual(self) -> AxisMap:
        """The reading side's own map."""
        return self.reading


def ridge(moved: Real, anchor: Real) -> Float:
    """The matrix M that minimises |M P - Q|^2 + 1e-8 |M|^2.

    Args:
        moved: P, shape (n, m).
        anchor: Q, shape (n, m).

    Returns:
        shape (n, n).
    """
    p, q = np.asarray(moved, np.float64), np.asarray(anchor, np.float64)
    return np.asarray(np.linalg.solve(p @ p.T + RIDGE * np.eye(len(p)), p @ q.T).T)


def _regression(views: Sequence[View]) -> Float:
    sides = ([v.moved for v in views], [v.anchor for v in views])
    return ridge(*(np.concatenate(side, axis=1) for side in sides))


def _unit(rows: Real) -> Real:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30))
