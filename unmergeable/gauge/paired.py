"""Paired gauge-fixing: the invertible matrix that two matrices agree on, one of them dually (ours).

Nothing but inner products enters, (n, n) each, however many columns there are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unmergeable.gauge.axis_map import Float

_STEPS = 30


@dataclass(frozen=True, eq=False)
class Pair:
    """Inner products of what writes into a space and of what reads from it, each (n, n).

    Attributes:
        ww: write P P'.
        wq: write Q P', Q being the anchor.
        rr: read P P'.
        rq: read Q P'.
        norm: the anchors' squares, write and read together.
    """

    ww: Float
    wq: Float
    rr: Float
    rq: Float
    norm: float

    @classmethod
    def of(cls, write: tuple[Float, Float], read: tuple[Float, Float]) -> Pair:
        """From the moved and the anchor's rows, (n, m) each, of both sides."""
        (wp, wq), (rp, rq) = write, read
        norm = float(np.vdot(wq, wq) + np.vdot(rq, rq))
        return cls(wp @ wp.T, wq @ wp.T, rp @ rp.T, rq @ rp.T, norm)

    def error(self, t: Float, inverse: Float | None = None) -> float:
        """|T write - its anchor|^2 + |T^-T read - its anchor|^2, for T of shape (n, n)."""
        dual = (np.linalg.inv(t) if inverse is None else inverse).T
        write = (t * (t @ self.ww - 2 * self.wq)).sum()
        return float(write + (dual * (dual @ self.rr - 2 * self.rq)).sum()) + self.norm

    def monomial_bound(self) -> float:
        """What any T with one number in each row and column leaves at least.

        Each anchor row is as near as the best moved row comes, scaled at will on both sides, also
        if other rows want that one, too.
        """
        explained = np.zeros_like(self.ww)
        for inner, squares in ((self.wq, self.ww), (self.rq, self.rr)):
            explained += inner**2 / np.maximum(np.diagonal(squares), 1e-300)
        return self.norm - float(explained.max(axis=1).sum())


def paired_gauge_fix(pair: Pair) -> Float:
    """The invertible T that minimises the pair's error.

    Starts from least squares on the writing side alone; each step solves the normal equation, a
    Sylvester equation, for a multiplicative update T <- (1 + X) T, and is shortened until it helps.

    Returns:
        T, shape (n, n); the identity for what says nothing, such as a head of zeros.
    """
    try:
        return _paired(pair)
    except np.linalg.LinAlgError:  # no number, or no rank at all
        return np.eye(len(pair.ww))


def _paired(pair: Pair) -> Float:
    ww, rr = pair.ww, pair.rr
    ridge = max(1e-12 * np.trace(ww), 1e-300) * np.eye(len(ww))
    t: Float = np.asarray(np.linalg.solve(ww + ridge, pair.wq.T).T)
    inverse = _inverse(t, 1e8)
    if inverse is None:
        t = inverse = np.eye(len(ww))
    value = pair.error(t, inverse)
    for _ in range(_STEPS):
        dual = inverse.T
        left, right = dual @ rr @ dual.T, t @ ww @ t.T
        step = _sylvester(left, right, pair.wq @ t.T - right - dual @ pair.rq.T + left)
        length, before = 1.0, value
        while length > 1e-3 and not value < before:
            candidate = t + length * step @ t
            if (found := _inverse(candidate, 1e10)) is not None:
                error = pair.error(candidate, found)
                if error < before:
                    t, inverse, value = candidate, found, error
            length /= 2
        if not before - value >= 1e-6 * abs(before):
            break
    return t


def _inverse(t: Float, largest: float) -> Float | None:
    """The inverse of a matrix; None if it is ill-conditioned, or singular."""
    try:
        inverse: Float = np.asarray(np.linalg.inv(t), np.float64)
    except np.linalg.LinAlgError:
        return None
    return inverse if np.linalg.norm(t) * np.linalg.norm(inverse) <= largest * len(t) else None


def _sylvester(left: Float, right: Float, wanted: Float) -> Float:
    """Solves left X + X right = wanted, for symmetric positive semidefinite left and right."""
    (a, u), (b, v) = np.linalg.eigh(left), np.linalg.eigh(right)
    sums = a[:, None] + b
    floor = 1e-14 * max(float(sums.max()), 1e-300)
    return np.asarray(u @ ((u.T @ wanted @ v) / np.maximum(sums, floor)) @ v.T)
