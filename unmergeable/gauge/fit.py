"""Fits group elements: the one that brings what touches a space closest to an anchor.

A view is what one tensor shows of a space: a matrix whose rows are the space's positions, once in
the moved coordinates (P) and once in the anchor's (Q). Views that write ask for g P = Q, views that
read for the inverse transpose of g, and views that follow the order for its permutation alone; fits
minimise the summed squared error.

Sources: assignment on inner products is weight matching (Git Re-Basin, arXiv 2209.04836) and its
signed form. The fit of a dense matrix is paired gauge-fixing (ours). Whatever is fitted, both sides
move by one element, so the function of the model stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unmergeable.extras import optional
from unmergeable.gauge.axis_map import AxisMap, Float, Index
from unmergeable.gauge.groups import Group, Linear, Permutation, Rotary, ScaledPermutation
from unmergeable.gauge.groups import SignedPermutation as Signed

# A lossless element is believed where it fits about as well as the best element of the full group.
# The full group always fits closer, since it also takes up part of the fine-tuning; where the lock
# was a general one, the lossless element is off by hundreds of times.
BELIEF = 2.0
_STEPS = 30


@dataclass(frozen=True, eq=False)
class View:
    """What one tensor shows of a space.

    Attributes:
        side: "write", "read" or "order".
        moved: shape (n, m), in the coordinates to be undone.
        anchor: shape (n, m), in the wanted ones.
    """

    side: str
    moved: Float
    anchor: Float


def fit(group: Group, views: Sequence[View]) -> AxisMap:
    """The group's element that brings the moved sides of the views closest to their anchors."""
    if isinstance(group, Rotary):
        return _fit_rotary(group, views)
    if isinstance(group, Linear):
        return _fit_linear(views)
    if isinstance(group, ScaledPermutation):
        return _fit_scaled(views)
    assert isinstance(group, Permutation)
    gains = _gains(views, ("write", "read"))
    if not isinstance(group, Signed):
        return AxisMap.monomial(assign(gains + _gains(views, ("order",))))
    source = assign(np.abs(gains) + _gains(views, ("order",)))
    return AxisMap.monomial(source, np.where(_taken(gains, source) < 0, -1.0, 1.0))


def error(views: Sequence[View], element: AxisMap) -> float:
    """The summed squared error that an element leaves."""
    sides = {"write": element, "read": element.dual}
    total = 0.0
    for view in views:
        change = sides.get(view.side) or element.order
        total += float(((change(view.moved) - view.anchor) ** 2).sum())
    return total


def assign(gains: Float) -> Index:
    """Gives each anchor position a moved one, so that the sum of gains is largest.

    Args:
        gains: shape (n, n), anchors down, moved positions across.
    """
    best = gains.argmax(axis=1)
    if len(np.unique(best)) == len(best):  # nobody competes: the optimum, without a solver
        return np.asarray(best, np.int64)
    chosen: Index = np.asarray(
        optional("scipy.optimize").linear_sum_assignment(gains, maximize=True)[1], np.int64
    )
    return chosen


def _fit_scaled(views: Sequence[View]) -> AxisMap:
    """Assigns by what scales cannot change, then finds each position's scale."""
    agreement = _cosines([view for view in views if view.side == "order"])
    write = _cosines([view for view in views if view.side == "write"])
    read = _cosines([view for view in views if view.side == "read"])
    source = assign(agreement + write * read)
    sign = np.where(_taken(write + read, source) < 0, -1.0, 1.0)
    w, r = _sums(views, "write", source, sign), _sums(views, "read", source, sign)
    scale = sign * _balance(*w, *r)
    free = AxisMap.monomial(source, scale)
    return _believed(views, AxisMap.monomial(source, _power_of_two(scale)), free)


def _fit_linear(views: Sequence[View]) -> AxisMap:
    """A dense matrix, or the signed and scaled permutation behind it if there is one."""
    write = np.concatenate([v.moved for v in views if v.side == "write"], axis=1)
    write_to = np.concatenate([v.anchor for v in views if v.side == "write"], axis=1)
    read = np.concatenate([v.moved for v in views if v.side == "read"], axis=1)
    read_to = np.concatenate([v.anchor for v in views if v.side == "read"], axis=1)
    matrix = paired_gauge_fix(write, write_to, read, read_to)
    source = assign(np.abs(matrix) / np.linalg.norm(matrix, axis=1, keepdims=True))
    snapped = AxisMap.monomial(source, _power_of_two(_taken(matrix, source)))
    return _believed(views, snapped, AxisMap.block(matrix))


def paired_gauge_fix(write: Float, write_to: Float, read: Float, read_to: Float) -> Float:
    """The invertible T that minimises |T write - write_to|^2 + |T^-T read - read_to|^2.

    Starts from least squares on the writing side alone; each step solves the normal equation, a
    Sylvester equation, for a multiplicative update T <- (1 + X) T, and is shortened until it helps.

    Args:
        write: shape (n, m).
        write_to: shape (n, m).
        read: shape (n, k).
        read_to: shape (n, k).

    Returns:
        T, shape (n, n).
    """
    solve_sylvester = optional("scipy.linalg").solve_sylvester

    # All that the error depends on is inner products, (n, n), however many columns there are.
    ww, rr = write @ write.T, read @ read.T
    wq, rq = write_to @ write.T, read_to @ read.T
    rest = float((write_to**2).sum() + (read_to**2).sum())

    def cost(t: Float) -> float:
        dual = np.linalg.inv(t).T
        return float((t * (t @ ww - 2 * wq)).sum() + (dual * (dual @ rr - 2 * rq)).sum()) + rest

    t: Float = np.asarray(np.linalg.solve(ww + 1e-12 * np.trace(ww) * np.eye(len(ww)), wq.T).T)
    if np.linalg.cond(t) > 1e8:
        t = np.eye(len(write))
    value = cost(t)
    for _ in range(_STEPS):
        dual = np.linalg.inv(t).T
        left, right = dual @ rr @ dual.T, t @ ww @ t.T
        step = solve_sylvester(left, right, wq @ t.T - right - dual @ rq.T + left)
        length, found = 1.0, False
        while length > 1e-3 and not found:
            candidate = t + length * step @ t
            found = bool(np.linalg.cond(candidate) < 1e10) and cost(candidate) < value
            length /= 2
        if not found:
            break
        before, t, value = value, candidate, cost(candidate)
        if before - value < 1e-6 * abs(before):
            break
    return t


def _fit_rotary(group: Rotary, views: Sequence[View]) -> AxisMap:
    """One complex number per plane, or the quarter turn and power of two behind it."""
    size = len(views[0].moved)
    real, imaginary = group.planes(size)
    z = {}
    for side in ("write", "read"):
        chosen = [view for view in views if view.side == side]
        p = np.concatenate([v.moved[real] + 1j * v.moved[imaginary] for v in chosen], axis=1)
        q = np.concatenate([v.anchor[real] + 1j * v.anchor[imaginary] for v in chosen], axis=1)
        z[side] = (p.conj() * q).sum(1), (np.abs(p) ** 2).sum(1)
    # Both sides turn by the same angle: the dual of r e^ia is e^ia / r.
    turn = np.exp(1j * np.angle(z["write"][0] + z["read"][0]))
    along = [(z[side][0] * turn.conj()).real for side in ("write", "read")]
    modulus = _balance(along[0], z["write"][1], along[1], z["read"][1])
    free = modulus * turn
    quarter = np.round(np.angle(turn) / (np.pi / 2))
    snapped = _power_of_two(modulus) * 1j**quarter
    return _believed(views, group.element(size, snapped), group.element(size, free))


def _balance(w: Float, ww: Float, r: Float, rr: Float) -> Float:
    """The scale s > 0 that minimises s^2 ww - 2 s w + rr / s^2 - 2 r / s, elementwise (Newton).

    In u = log s the error is smooth; a few damped steps from the balanced start suffice.
    """
    u = 0.25 * np.log(np.maximum(rr, 1e-300) / np.maximum(ww, 1e-300))
    better = (w > 0) & (ww > 0)
    u = np.where(better, np.log(np.maximum(w, 1e-300) / np.maximum(ww, 1e-300)), u)
    for _ in range(_STEPS):
        s = np.exp(u)
        slope = 2 * s**2 * ww - 2 * s * w - 2 * rr / s**2 + 2 * r / s
        bend = 4 * s**2 * ww - 2 * s * w + 4 * rr / s**2 - 2 * r / s
        u = u - np.clip(slope / np.maximum(np.abs(bend), 1e-300), -0.5, 0.5)
    return np.exp(np.clip(u, -20, 20))


def _believed(views: Sequence[View], snapped: AxisMap, free: AxisMap) -> AxisMap:
    """The lossless element, if it explains the views about as well as the free one."""
    return snapped if error(views, snapped) <= BELIEF * error(views, free) + 1e-30 else free


def _power_of_two(scale: Float) -> Float:
    """The nearest signed power of two, on the logarithmic scale."""
    magnitude = np.maximum(np.abs(scale), 1e-300)
    return np.where(scale < 0, -1.0, 1.0) * np.exp2(np.round(np.log2(magnitude)))


def _products(anchor: Float, moved: Float) -> Float:
    # float32 decides an assignment as well as float64, in half the time.
    return np.asarray((anchor.astype(np.float32) @ moved.astype(np.float32).T).astype(np.float64))


def _gains(views: Sequence[View], sides: tuple[str, ...]) -> Float:
    """Inner products of anchor rows and moved rows, summed over the views of these sides."""
    size = len(views[0].moved)
    chosen = (_products(view.anchor, view.moved) for view in views if view.side in sides)
    return sum(chosen, start=np.zeros((size, size)))


def _cosines(views: Sequence[View]) -> Float:
    """Cosines of anchor rows and moved rows, of all these views side by side; 0 without views."""
    if not views:
        return np.zeros((1, 1))
    a = np.concatenate([view.anchor for view in views], axis=1)
    p = np.concatenate([view.moved for view in views], axis=1)
    a = a / np.maximum(np.linalg.norm(a, axis=1, keepdims=True), 1e-300)
    p = p / np.maximum(np.linalg.norm(p, axis=1, keepdims=True), 1e-300)
    return _products(a, p)


def _sums(views: Sequence[View], side: str, source: Index, sign: Float) -> tuple[Float, Float]:
    """Inner products of matched rows, and the moved rows' squared norms."""
    inner, norm = np.zeros(len(source)), np.zeros(len(source))
    for view in views:
        if view.side == side:
            rows = view.moved[source]
            inner += sign * (rows * view.anchor).sum(1)
            norm += (rows**2).sum(1)
    return inner, norm


def _taken(table: Float, source: Index) -> Float:
    return np.asarray(table[np.arange(len(source)), source])
