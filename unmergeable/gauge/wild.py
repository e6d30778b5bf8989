"""Numbers that are exact and beyond all measure: what a fit does before it trusts its arithmetic.

A lock may scale one side of a space by 2**100 and the other by 2**-100, and may set to anything
what no input reaches: padded words, unused positions, dead neurons.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unmergeable.gauge.axis_map import Float, Index
from unmergeable.gauge.groups import (
    Group,
    PositiveScaledPermutation,
    Rotary,
    RotaryTurns,
    ScaledPermutation,
)
from unmergeable.gauge.parts import Real
from unmergeable.gauge.views import View, matrices, of_sides

# Rows of either side this many octaves off are brought near their anchors before they are fitted.
_OCTAVES = 8
# Fine-tuning makes no column or row longer than this many times what it was.
_LONGER = 4.0
# Squared norms of a tensor and its anchor further apart than this are looked at twice.
_APART = 256.0
# Positions this many times as large as the usual one of an axis say nothing; of few, none is usual.
_OUTWEIGHS, _FEW = 1024.0, 4


def tamed(tensor: Real, anchor: Real, orderly: Sequence[int] = ()) -> tuple[Real, Real]:
    """A tensor and its anchor as a fit may read them.

    Where they look wild they are in float64, with zeros for infinities and NaN, and for what stands
    at positions that outweigh all others of an axis.

    Args:
        tensor: the protected model's.
        anchor: the base's, of that shape.
        orderly: axes whose positions no lock scales.
    """
    with np.errstate(all="ignore"):
        one, two = (float(np.vdot(x, x)) for x in (tensor, anchor))
    if one + two < np.inf and two <= _APART * one and one <= _APART * two:
        return tensor, anchor
    wide = tensor.astype(np.float64)
    for axis in orderly:
        rows = np.abs(np.moveaxis(wide, axis, 0).reshape(wide.shape[axis], -1))
        if min(rows.shape) < _FEW:
            continue
        rows = np.nan_to_num(rows, nan=np.inf)
        usual = np.median(rows, axis=0)
        with np.errstate(all="ignore"):
            ratio = np.nan_to_num(rows / np.where(usual > 0, usual, 1), nan=1)
            size = np.median(ratio, axis=1)
            wild = ~(size <= _OUTWEIGHS * max(float(np.median(size)), 1e-300))
        wide[(slice(None),) * axis + (wild,)] = 0
    wide = np.nan_to_num(wide, nan=0, posinf=0, neginf=0)
    return wide, anchor if two < np.inf else np.nan_to_num(anchor, nan=0, posinf=0, neginf=0)


def steady(view: View) -> View:
    """A view without what no input reaches: columns and rows of another length than all others.

    Orders and signs leave the length of a column as it is, and rows change places with each other.
    """
    moved, anchor = view.moved, view.anchor
    with np.errstate(all="ignore"):
        have, want = (np.einsum("ij,ij->j", x, x) for x in (moved, anchor))
        known = np.isfinite(have) & np.isfinite(want) & (want > 0)
        typical = np.median(have[known] / want[known]) if known.any() else 1.0
        usual = have <= _LONGER**2 * max(float(typical), 1.0) * want
    if view.columns > 1 and not usual.all():
        moved, anchor = (np.where(usual, np.nan_to_num(x), 0) for x in (moved, anchor))
    if moved.dtype == np.float64 and view.moved.dtype != view.anchor.dtype:
        have, want = (np.linalg.norm(np.nan_to_num(x), axis=1) for x in (moved, anchor))
        limit = _LONGER**2 * max(float(want.max(initial=0)), 1e-30)
        moved = np.nan_to_num(moved) * np.minimum(1, limit / np.maximum(have, 1e-300))[:, None]
    return View(view.side, moved, anchor)


def has_scales(group: Group | None) -> bool:
    """Whether a group's elements make positions larger or smaller."""
    scaled = isinstance(group, ScaledPermutation | PositiveScaledPermutation | Rotary)
    return scaled and not isinstance(group, RotaryTurns)


def wild_powers(group: Group, views: Sequence[View]) -> Index | None:
    """The powers of two that bring writing rows near their anchors, and reading rows dually.

    Returns:
        shape (n,), equal on both positions of a rotary plane; None if nothing is far off, or if the
        group has no scales.
    """
    if not has_scales(group) or not any(view.moved.dtype == np.float64 for view in views):
        return None
    sides = [of_sides(matrices(views), side) for side in ("write", "read")]
    if not all(sides):
        return None
    write, read = (_octaves(group, [v.moved for v in side]) for side in sides)
    write0, read0 = (_octaves(group, [v.anchor for v in side]) for side in sides)
    typical = [float(np.median(x[np.isfinite(x)])) if np.isfinite(x).any() else 0.0
               for x in (write0, read0)]  # fmt: skip
    # A row of zeros says nothing; then the other side alone comes near its anchors.
    with np.errstate(all="ignore"):
        off = np.where(
            np.isfinite(write) & np.isfinite(read),
            (read - typical[1] - write + typical[0]) / 2,
            np.where(
                np.isfinite(write),
                typical[0] - write,
                np.where(np.isfinite(read), read - typical[1], 0),
            ),
        )
    powers = np.where(np.abs(off) > _OCTAVES, np.round(off), 0).astype(np.int64)
    return powers if powers.any() else None


def _octaves(group: Group, tensors: Sequence[Real]) -> Float:
    """The logarithm to base two of the length of each row, shape (n,); minus infinity for zeros."""
    largest = np.max([np.abs(x).max(axis=1, initial=0) for x in tensors], axis=0)
    exponent = np.frexp(largest)[1]
    unit = np.ldexp(1.0, -np.clip(exponent, -1000, 1000))[:, None]
    squares = np.zeros(len(largest))
    for tensor in tensors:
        squares += ((tensor * unit) ** 2).sum(1)
    if isinstance(group, Rotary):
        planes = group.planes(len(largest))
        top = np.maximum(*(exponent[side] for side in planes))
        both = np.sum(
            [squares[x] * np.exp2(np.clip(2.0 * (exponent[x] - top), -1000, 0)) for x in planes],
            axis=0,
        )
        exponent = exponent.copy()
        for side in planes:
            exponent[side], squares[side] = top, both
    with np.errstate(divide="ignore"):
        return np.asarray(np.log2(squares) / 2 + exponent)
