"""Kabsch: rotations only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unmergeable.attacks.alignment.method import Method
from unmergeable.gauge.axis_map import AxisMap, Float
from unmergeable.gauge.fit import fit, plane_sums
from unmergeable.gauge.groups import Group, Linear, Rotary
from unmergeable.gauge.views import View, of_sides


class Kabsch(Method):
    """Fits what keeps distances: orthogonal matrices in heads, signed permutations in the FFN.

    Inside a head, queries and keys get one orthogonal matrix, values and outputs another, by
    orthogonal Procrustes on both sides together (for an orthogonal matrix both sides move alike):
    the polar factor of the summed products Q P'. On rotary queries and keys only rotations of the
    planes are allowed, since nothing else keeps the function. It undoes rotations and permutations,
    not scales. Source: Kabsch, "A solution for the best rotation to relate two sets of vectors",
    Acta Cryst. A32 (1976); Schönemann, Psychometrika 31 (1966). Applied to heads and planes: ours.
    """

    name = "kabsch"
    order = 30
    sentence = "orthogonal Procrustes per head; rotations of planes under rotary positions"
    source = "Kabsch 1976, Schönemann 1966"

    def inside(self, group: Group, views: Sequence[View]) -> AxisMap:
        """The closest orthogonal element."""
        if isinstance(group, Rotary):
            sides = [plane_sums(group, views, side).inner for side in ("write", "read")]
            turns = np.exp(1j * np.angle(sides[0] + sides[1]))
            return group.element(len(views[0].moved), turns)
        return procrustes(views) if isinstance(group, Linear) else fit(group, views)

    def neurons(self, group: Group, views: Sequence[View]) -> AxisMap:
        """Our match without its magnitudes."""
        found = fit(group, views)
        return AxisMap.monomial(found.source, np.sign(found.factors[0]))


def procrustes(views: Sequence[View]) -> AxisMap:
    """The orthogonal matrix R that minimises the sum of |R P - Q|^2 over all views."""
    chosen = of_sides(views, "write", "read")
    size = len(views[0].moved)
    total = sum((_products(view) for view in chosen), start=np.zeros((size, size)))
    left, _, right = np.linalg.svd(total)
    return AxisMap.block(left @ right)


def _products(view: View) -> Float:
    anchor, moved = (np.asarray(side, np.float64) for side in (view.anchor, view.moved))
    return np.asarray(anchor @ moved.T)
