"""Fits group elements: the one that brings what touches a space closest to an anchor.

A view is what one tensor shows of a space: a matrix whose rows are the space's positions, once in
the moved coordinates (P) and once in the anchor's (Q). Views that write ask for g P = Q, views that
read for the inverse transpose of g, and views that follow the order for its permutation alone; fits
minimise the summed squared error.

Scales, phases and dense matrices are fitted to matrices alone, and biases follow: in real models a
bias can outweigh its matrix, and its one column has no more numbers than the group has freedom, so
that a fit would spend itself on the fine-tuning of the bias.

Sources: assignment on inner products is weight matching (Git Re-Basin, arXiv 2209.04836) and its
signed form. The fit of a dense matrix is paired gauge-fixing (ours). Whatever is fitted, both sides
move by one element, so the function of the model stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from unmergeable.gauge.axis_map import AxisMap, Float, Index
from unmergeable.gauge.groups import (
    Group,
    Linear,
    Permutation,
    PositiveScaledPermutation,
    Rotary,
    RotaryTurns,
    ScaledPermutation,
)
from unmergeable.gauge.groups import SignedPermutation as Signed
from unmergeable.gauge.matching import (
    assign,
    clear_match,
    clear_sketch,
    products,
    row_products,
    stride_of,
    unit_rows,
)
from unmergeable.gauge.paired import Pair, paired_gauge_fix
from unmergeable.gauge.parts import Real
from unmergeable.gauge.views import View, Wide, matrices, of_sides, pieces, whole
from unmergeable.gauge.wild import steady, wild_powers

# A lossless element is believed where it fits about as well as the best element of the full group.
# The full group always fits closer, since it also takes up part of the fine-tuning; where the lock
# was a general one, the lossless element is off by hundreds of times.
BELIEF = 2.0
# Errors are differences of sums of squares, taken in float32 for the large views: what is smaller
# than this share of the sums is rounding.
ROUNDING = 1e-6
# A position tells a scale if the best one leaves no more than this share of its squares.
_TOLD = 0.25
# Scales that vectors alone tell are powers of two if the usual one is this near, in octaves.
_NEAR = 0.05
_STEPS = 30
# Numbers that are compared at once, so that they stay in a core's cache.
_PIECE = 1 << 18


def fit_wide(group: Group, shown: Sequence[Wide]) -> AxisMap:
    """As `fit`, without holding wide views where an order and signs are all there is to find."""
    if type(group) not in (Permutation, Signed):
        return fit(group, whole(shown))
    return _fit_order(shown, isinstance(group, Signed))


def fit(group: Group, views: Sequence[View]) -> AxisMap:
    """The group's element that brings the moved sides of the views closest to their anchors.

    Numbers of any size may be exact: a lock may scale one side by 2**100 and the other by 2**-100.
    Views in float64 are brought near their anchors first, by powers of two.
    """
    powers = wild_powers(group, views)
    if powers is None:
        return _fit(group, views)
    factor = np.ldexp(1.0, powers)[:, None]
    by = {"write": factor, "read": 1 / factor}
    tamed = [View(v.side, v.moved * by.get(v.side, 1.0), v.anchor) for v in views]
    found = _fit(group, tamed)
    scale = factor[found.source, 0]
    if found.scale is not None:
        return AxisMap.monomial(found.source, found.scale * scale)
    return AxisMap.block(found(np.eye(found.size)) * factor[:, 0])


def _fit(group: Group, views: Sequence[View]) -> AxisMap:
    if isinstance(group, Rotary):
        return _fit_rotary(group, views)
    if isinstance(group, Linear):
        return _fit_linear(views)
    if isinstance(group, ScaledPermutation):
        return _fit_scaled(views, signed=True)
    if isinstance(group, PositiveScaledPermutation):
        return _fit_scaled(views, signed=False)
    assert isinstance(group, Permutation)
    return _fit_order(views, isinstance(group, Signed))


def error(views: Sequence[View], element: AxisMap) -> float:
    """The summed squared error that an element leaves."""
    sides = {"write": element, "read": element.dual}
    total = 0.0
    for view in views:
        change = sides.get(view.side) or element.order
        total += float(((change(np.asarray(view.moved, np.float64)) - view.anchor) ** 2).sum())
    return total


def _fit_order(shown: Sequence[Wide], signed: bool) -> AxisMap:
    """The order of positions, and their signs: by a sketch if it is clear, else by all columns."""
    # Matrices alone: biases and gains are large, and much the same at all positions.
    matrices = [view for view in shown if view.side != "order" and view.columns > 1]
    stride = stride_of(sum(view.columns for view in matrices))
    if stride is not None:
        sketch = [steady(view.part(slice(None, None, stride))) for view in matrices]
        found = clear_sketch([(view.moved, view.anchor) for view in sketch], signed)
        if found is not None:
            return AxisMap.monomial(*found)
    rows = shown[0].rows
    gains, ordered = _gains(shown, rows, "write", "read"), _gains(shown, rows, "order")
    if not signed:
        return AxisMap.monomial(assign(gains + ordered))
    source = assign(np.abs(gains) + ordered)
    return AxisMap.monomial(source, np.where(_taken(gains, source) < 0, -1.0, 1.0))


def _clear(views: Sequence[View], signed: bool) -> tuple[Index, Float] | None:
    """A match by matrices alone: biases and gains are large, and much the same at all positions."""
    return clear_match([(view.moved, view.anchor) for view in matrices(views)], signed)


def _fit_scaled(views: Sequence[View], signed: bool) -> AxisMap:
    """Assigns by what scales cannot change, then finds each position's scale."""
    found = _scaled_permutation(views, signed)
    snapped, free, norm = found.errors(found.snapped), found.errors(found.free), found.norms
    # Positions that no input reaches may be anything, so that no scale explains them.
    told = free <= _TOLD * norm
    told = told if told.any() else np.ones_like(told)
    lossless = _believed(*(float(part[told].sum()) for part in (snapped, free, norm)))
    if all(view.side == "order" for view in matrices(views)):  # vectors have as many scales
        octaves = np.log2(np.abs(found.free / found.snapped)[told])
        lossless = bool(np.median(np.abs(octaves)) <= _NEAR)
    return AxisMap.monomial(found.source, found.snapped if lossless else found.free)


@dataclass(frozen=True, eq=False)
class _Scaled:
    """A permutation and the sums that scales are fitted to, of what writes and of what reads."""

    source: Index
    write: Sums
    read: Sums
    signed: bool

    @property
    def free(self) -> Float:
        """The best scales, shape (n,)."""
        w, r = self.write, self.read
        # Both sides ask for one sign; each speaks in proportion to how alike its rows are.
        votes = [s.inner / np.sqrt(np.maximum(s.moved * s.anchor, 1e-300)) for s in (w, r)]
        sign = np.where((votes[0] + votes[1] < 0) & self.signed, -1.0, 1.0)
        return sign * balance(sign * w.inner, w.moved, sign * r.inner, r.moved)

    @property
    def snapped(self) -> Float:
        """The powers of two nearest to them."""
        return power_of_two(self.free)

    @property
    def norms(self) -> Float:
        """The squares of all that was compared, shape (n,)."""
        return self.write.moved + self.write.anchor + self.read.moved + self.read.anchor

    def errors(self, scale: Float) -> Float:
        """The squared error that scales leave at each position, shape (n,)."""
        return self.write.errors(scale) + self.read.errors(1 / scale)


def _scaled_permutation(views: Sequence[View], signed: bool) -> _Scaled:
    """Matches positions, and looks at the matrices under that match."""
    ordered, write, read = (of_sides(views, side) for side in ("order", "write", "read"))
    found = _clear(ordered or write or read, signed=signed and not ordered)
    if found is None:
        # Where signs may differ they do so on both sides, and the product does not see them.
        sides = [_cosines(shown) for shown in (write, read) if shown]
        table = sum(sides, np.zeros((1, 1)))
        if signed and sides:
            table = sides[0] * sides[1] if len(sides) > 1 else np.abs(sides[0])
        source = assign(_cosines(ordered) + table)
    else:
        source = found[0]
    told = matrices(views)
    if all(view.side == "order" for view in told):  # as of channels before a batch norm
        told = list(views)
    sums = [_sums(told, side, source) for side in ("write", "read")]
    return _Scaled(source, sums[0], sums[1], signed)


def _fit_linear(views: Sequence[View]) -> AxisMap:
    """A dense matrix, or the signed and scaled permutation behind it if there is one."""
    pair = _pair(views)
    free = paired_gauge_fix(pair)
    left = pair.error(free)
    if not _believed(pair.monomial_bound(), left, pair.norm):
        return AxisMap.block(free)  # whatever the order is
    found = _scaled_permutation(views, signed=True)
    lossless = _believed(float(found.errors(found.snapped).sum()), left, pair.norm)
    return AxisMap.monomial(found.source, found.snapped) if lossless else AxisMap.block(free)


def _pair(views: Sequence[View]) -> Pair:
    """Inner products of the matrices among the views."""
    return Pair.of(*(_side_by_side(matrices(views), side) for side in ("write", "read")))


def _side_by_side(views: Sequence[View], side: str) -> tuple[Float, Float]:
    """The moved and the anchor's rows of all views of one side, in float64."""
    chosen = of_sides(views, side)
    return (
        np.concatenate([view.moved for view in chosen], axis=1, dtype=np.float64),
        np.concatenate([view.anchor for view in chosen], axis=1, dtype=np.float64),
    )


def _fit_rotary(group: Rotary, views: Sequence[View]) -> AxisMap:
    """One complex number per plane, or the quarter turn and power of two behind it."""
    size = len(views[0].moved)

    write, read = (plane_sums(group, matrices(views), side) for side in ("write", "read"))
    # Both sides turn by the same angle: the dual of r e^ia is e^ia / r.
    turn = np.exp(1j * np.angle(write.inner + read.inner))
    if isinstance(group, RotaryTurns):
        modulus = np.ones(len(turn))
    else:
        along = [(side.inner * turn.conj()).real for side in (write, read)]
        modulus = balance(along[0], write.moved, along[1], read.moved)
    free = modulus * turn
    snapped = power_of_two(modulus) * 1j ** np.round(np.angle(turn) / (np.pi / 2))
    errors = [write.error(z) + read.error(1 / z.conj()) for z in (snapped, free)]
    lossless = _believed(errors[0], errors[1], write.norm + read.norm)
    return group.element(size, snapped if lossless else free)


@dataclass(frozen=True, eq=False)
class Sums:
    """What the error of a scale per position depends on, each of shape (n,).

    Attributes:
        inner: sum of conj(p) q over the columns.
        moved: sum of |p|^2.
        anchor: sum of |q|^2.
    """

    inner: Float
    moved: Float
    anchor: Float

    @property
    def norm(self) -> float:
        """The squares of both sides."""
        return float(self.moved.sum() + self.anchor.sum())

    def errors(self, scale: Float) -> Float:
        """Sums of |scale p - q|^2 over the columns, shape (n,); `scale` may be complex."""
        cross = (np.conj(scale) * self.inner).real
        return np.asarray(np.abs(scale) ** 2 * self.moved - 2 * cross + self.anchor)

    def error(self, scale: Float) -> float:
        """The same over all positions."""
        return float(self.errors(scale).sum())


def plane_sums(group: Rotary, views: Sequence[View], side: str) -> Sums:
    """The sums of one side of a rotary space, plane by plane, shape (n / 2,)."""
    real, imaginary = group.planes(len(views[0].moved))
    inner = np.zeros(len(real), complex)
    moved, anchor = np.zeros(len(real)), np.zeros(len(real))
    for view in of_sides(views, side):
        (pr, pi), (qr, qi) = ((x[real], x[imaginary]) for x in (view.moved, view.anchor))
        inner += row_products(pr, qr) + row_products(pi, qi)
        inner += 1j * (row_products(pr, qi) - row_products(pi, qr))
        moved += row_products(pr, pr) + row_products(pi, pi)
        anchor += row_products(qr, qr) + row_products(qi, qi)
    return Sums(inner, moved, anchor)


def balance(w: Float, ww: Float, r: Float, rr: Float) -> Float:
    """The scale s > 0 that minimises s^2 ww - 2 s w + rr / s^2 - 2 r / s, elementwise (Newton).

    In u = log s the error is smooth; a few damped steps from the balanced start suffice.
    """
    u = 0.25 * np.log(np.maximum(rr, 1e-300) / np.maximum(ww, 1e-300))
    for inner, square, sign in ((r, rr, -1.0), (w, ww, 1.0)):  # one side may say nothing
        better = (inner > 0) & (square > 0)
        alone = sign * np.log(np.maximum(inner, 1e-300) / np.maximum(square, 1e-300))
        u = np.where(better, alone, u)
    for _ in range(_STEPS):
        s = np.exp(u)
        slope = 2 * s**2 * ww - 2 * s * w - 2 * rr / s**2 + 2 * r / s
        bend = 4 * s**2 * ww - 2 * s * w + 4 * rr / s**2 - 2 * r / s
        step = np.clip(slope / np.maximum(np.abs(bend), 1e-300), -0.5, 0.5)
        u = u - step
        if np.abs(step).max(initial=0.0) < 1e-12:
            break
    return np.exp(np.clip(u, -20, 20))


def _believed(snapped: float, free: float, norm: float) -> bool:
    """Whether the lossless element explains the views about as well as the free one."""
    return snapped <= BELIEF * max(free, 0.0) + ROUNDING * norm


def power_of_two(scale: Float) -> Float:
    """The nearest signed power of two, on the logarithmic scale."""
    magnitude = np.maximum(np.abs(scale), 1e-300)
    return np.where(scale < 0, -1.0, 1.0) * np.exp2(np.round(np.log2(magnitude)))


def _gains(shown: Sequence[Wide], rows: int, *sides: str) -> Float:
    """Inner products of anchor rows and moved rows, summed over the views of these sides."""
    total = np.zeros((rows, rows))
    for wide in shown:
        if wide.side in sides:
            for view in pieces(wide):
                view = steady(view)
                total += products(view.anchor, view.moved)
    return total


def _cosines(views: Sequence[View]) -> Float:
    """Cosines of anchor rows and moved rows, of all these views side by side; 0 without views."""
    if not views:
        return np.zeros((1, 1))
    a = np.concatenate([view.anchor for view in views], axis=1)
    p = np.concatenate([view.moved for view in views], axis=1)
    return products(unit_rows(a), unit_rows(p))


def _sums(views: Sequence[View], side: str, source: Index) -> Sums:
    """The sums of matched rows."""
    size = len(source)
    inner, moved, anchor = np.zeros(size), np.zeros(size), np.zeros(size)
    for view in of_sides(views, side):
        for where, rows, wanted in _matched(view, source):
            inner[where] += row_products(rows, wanted)
            moved[where] += row_products(rows, rows)
            anchor[where] += row_products(wanted, wanted)
    return Sums(inner, moved, anchor)


def _matched(view: View, source: Index) -> Iterator[tuple[slice, Real, Real]]:
    """Positions, and the moved and the anchor's rows there, in pieces that lie as in memory."""
    size, columns = view.moved.shape
    if view.moved.strides[0] < view.moved.strides[1]:  # rows of the tensor are columns here
        step = max(1, _PIECE // size)
        for start in range(0, columns, step):
            piece = slice(start, start + step)
            rows = np.take(view.moved.T[piece], source, axis=1)
            yield slice(None), rows.T, view.anchor[:, piece]
        return
    step = max(1, _PIECE // columns)
    for start in range(0, size, step):
        where = slice(start, start + step)
        yield where, np.take(view.moved, source[where], axis=0), view.anchor[where]


def _taken(table: Float, source: Index) -> Float:
    return np.asarray(table[np.arange(len(source)), source])
