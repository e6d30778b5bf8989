"""A normal form for each group, computed from one model alone (ours).

- permutation: positions in falling order of the norm of what touches them, all tensors alike;
- signed permutation: the same, and the sum of cubes of each writing row positive;
- scaled permutation, positive or not: sorted by what scales cannot change; writing and reading rows
  of equal norm;
- linear: writing and reading Gram matrices diagonal and equal, in falling order; signs as above;
- rotary: equal norms on both sides of each plane; the sum of z |z|^2 over its columns positive.

Each is reached by exactly one element, unless two numbers coincide that decide an order or a sign.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unmergeable.gauge.axis_map import AxisMap, Float
from unmergeable.gauge.groups import (
    Group,
    Linear,
    PositiveScaledPermutation,
    Rotary,
    ScaledPermutation,
    SignedPermutation,
)
from unmergeable.gauge.matching import row_products
from unmergeable.gauge.views import View, of_sides

_TINY = 1e-30


def normal_form(group: Group, views: Sequence[View]) -> AxisMap:
    """The element that brings the moved sides of the views to the group's normal form.

    Args:
        group: the space's.
        views: what touches it; their anchors are not looked at.
    """
    if isinstance(group, Rotary):
        return _rotary(group, views)
    if isinstance(group, Linear):
        return _linear(views)
    if isinstance(group, ScaledPermutation | PositiveScaledPermutation):
        write, read, order = (_squares(views, side) for side in ("write", "read", "order"))
        source = np.argsort(-_shares(order) - _shares(np.sqrt(write * read)), kind="stable")
        scale = (np.maximum(read, _TINY) / np.maximum(write, _TINY)) ** 0.25
        signs = _signs(views) if isinstance(group, ScaledPermutation) else 1.0
        return AxisMap.monomial(source, (signs * scale)[source])
    total = sum((_shares(_squares([v], v.side)) for v in views), start=np.zeros(1))
    source = np.argsort(-total, kind="stable")
    signed = isinstance(group, SignedPermutation)
    return AxisMap.monomial(source, _signs(views)[source] if signed else None)


def _squares(views: Sequence[View], side: str) -> Float:
    """Squared norms of the rows of one side, shape (n,)."""
    rows = [row_products(view.moved, view.moved) for view in of_sides(views, side)]
    return sum(rows, start=np.zeros(len(views[0].moved)))


def _shares(squares: Float) -> Float:
    """Divided by their mean, so that small tensors count as much as large ones."""
    return squares / max(float(squares.mean()), _TINY)


def _signs(views: Sequence[View]) -> Float:
    """Signs that make each writing row's sum of cubes positive: cubes see a row's largest parts."""
    views = of_sides(views, "write") or of_sides(views, "read")
    cubes = sum(np.asarray((view.moved**3).sum(1), np.float64) for view in views)
    return np.where(np.asarray(cubes) < 0, -1.0, 1.0)


def _linear(views: Sequence[View]) -> AxisMap:
    """The balanced form of a product R' W: with its singular values s, W W' = R R' = diag(s)."""
    write, read = (
        np.concatenate([v.moved for v in of_sides(views, side)], axis=1, dtype=np.float64)
        for side in ("write", "read")
    )
    gram = write @ write.T
    lower = np.linalg.cholesky(gram + 1e-12 * np.trace(gram) * np.eye(len(gram)))
    half = lower.T @ read
    values, vectors = np.linalg.eigh(half @ half.T)
    values, vectors = np.maximum(values[::-1], _TINY), vectors[:, ::-1]
    matrix = values[:, None] ** 0.25 * np.linalg.solve(lower.T, vectors).T
    cubes = ((matrix @ write) ** 3).sum(1)
    return AxisMap.block(np.where(cubes < 0, -1.0, 1.0)[:, None] * matrix)


def _rotary(group: Rotary, views: Sequence[View]) -> AxisMap:
    """Balanced moduli, and a phase from the planes' own columns."""
    size = len(views[0].moved)
    real, imaginary = group.planes(size)
    norms, turn = {}, np.zeros(len(real), complex)
    for side in ("write", "read"):
        rows = [view.moved[real] + 1j * view.moved[imaginary] for view in of_sides(views, side)]
        plane = np.concatenate(rows, axis=1)
        norms[side] = np.maximum((np.abs(plane) ** 2).sum(1), _TINY)
        # Divided by norms, so that both sides count alike whatever scale they are in.
        turn += (plane * np.abs(plane) ** 2).sum(1) / norms[side] ** 1.5
    modulus = (norms["read"] / norms["write"]) ** 0.25
    phase = np.exp(-1j * np.angle(turn))
    return group.element(size, modulus * phase)
