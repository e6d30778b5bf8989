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

    def error(self, t: Float) -> float:
        """|T write - its anchor|^2 + |T^-T read - its anchor|^2, for T of shape (n, n)."""
        dual = np.linalg.inv(t).T
        write = (t * (t @ self.ww - 2 * self.wq)).sum()
        return float(write + (dual * (dual @ self.rr - 2 * self.rq)).sum()) + self.norm


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
    if not np.linalg.cond(t) <= 1e8:
        t = np.eye(len(ww))
    value = pair.error(t)
    for _ in range(_STEPS):
        dual = np.linalg.inv(t).T
        left, right = dual @ rr @ dual.T, t @ ww @ t.T
        step = _sylvester(left, right, pair.wq @ t.T - right - dual @ pair.rq.T + left)
        length, found = 1.0, False
        while length > 1e-3 and not found:
            candidate = t + length * step @ t
            found = bool(np.linalg.cond(candidate) < 1e10) and pair.error(candidate) < value
            length /= 2
        if not found:
            break
        before, t, value = value, candidate, pair.error(candidate)
        if before - value < 1e-6 * abs(before):
            break
    return t


def _sylvester(left: Float, right: Float, wanted: Float) -> Float:
    """Solves left X + X right = wanted, for symmetric positive semidefinite left and right."""
    (a, u), (b, v) = np.linalg.eigh(left), np.linalg.eigh(right)
    sums = a[:, None] + b
    floor = 1e-14 * max(float(sums.max()), 1e-300)
    return np.asarray(u @ ((u.T @ wanted @ v) / np.maximum(sums, floor)) @ v.T)
