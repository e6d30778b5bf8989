"""Matches the rows of two matrices: by a sketch where it is clear, else by assignment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unmergeable.extras import optional
from unmergeable.gauge.axis_map import Float, Index
from unmergeable.gauge.parts import Real

# Columns that a sketch looks at. Unrelated rows then have cosines of about 0.07.
SKETCH = 192
# A match is clear if the best row's squared distance is below this share of the next one's.
CLEAR = 0.1
# Cosines that are looked at together.
_TABLE = 1 << 21


def assign(gains: Float) -> Index:
    """Gives each anchor position a moved one, so that the sum of gains is largest.

    Args:
        gains: shape (n, n), anchors down, moved positions across.

    Returns:
        The moved position of each anchor position, shape (n,).
    """
    gains = np.nan_to_num(gains)
    best = gains.argmax(axis=1)
    if len(np.unique(best)) == len(best):  # nobody competes: the optimum, without a solver
        return np.asarray(best, np.int64)
    chosen: Index = np.asarray(
        optional("scipy.optimize").linear_sum_assignment(gains, maximize=True)[1], np.int64
    )
    return chosen


def clear_match(pairs: Sequence[tuple[Real, Real]], signed: bool) -> tuple[Index, Float] | None:
    """Matches rows by a few columns alone, if these leave no doubt.

    Fine-tuning turns rows by degrees, unrelated rows stand nearly at right angles: a sketch tells
    them apart at a fraction of the cost of all columns. Near-duplicates are left to the caller.

    Args:
        pairs: moved and anchor rows, each of shape (n, m), of one or more tensors.
        signed: whether a row may match up to its sign.

    Returns:
        Source and sign of each anchor row, each of shape (n,); None if the sketch is no saving, or
        a row has no match or two.
    """
    stride = stride_of(sum(moved.shape[1] for moved, _ in pairs))
    if stride is None:
        return None
    return clear_sketch(
        [(moved[:, ::stride], anchor[:, ::stride]) for moved, anchor in pairs], signed
    )


def stride_of(columns: int) -> int | None:
    """The distance of the columns that a sketch looks at; None if it would be no saving."""
    return None if columns < 2 * SKETCH else -(-columns // SKETCH)


def clear_sketch(pairs: Sequence[tuple[Real, Real]], signed: bool) -> tuple[Index, Float] | None:
    """As `clear_match`, by all columns of what is a sketch already."""
    sides = []
    for side in (0, 1):
        sketch = np.concatenate([pair[side] for pair in pairs], axis=1)
        sides.append(unit_rows(sketch).astype(np.float32, copy=False))
    moved, anchor = sides
    count = len(anchor)
    source, sign = np.empty(count, np.int64), np.ones(count)
    # Some rows at a time: the table of a wide FFN is as large as its matrices, and only its two
    # largest numbers a row are wanted.
    step = max(1, _TABLE // count)
    for start in range(0, count, step):
        rows = slice(start, min(start + step, count))
        cosines = anchor[rows] @ moved.T
        table = np.abs(cosines) if signed else cosines
        every = np.arange(len(table))
        best = table.argmax(axis=1)
        nearest, wanted = table[every, best], cosines[every, best]
        table[every, best] = -1
        # Half the squared distance of two rows of length one is 1 - cosine.
        if not (1 - nearest <= CLEAR * (1 - table.max(axis=1, initial=-1))).all():
            return None
        source[rows] = best
        if signed:
            sign[rows] = np.where(wanted < 0, -1.0, 1.0)
    return (source, sign) if len(np.unique(source)) == count else None


def unit_rows(rows: Real) -> Real:
    """Rows of length one, shape (n, m); rows of zeros stay."""
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30))


def products(anchor: Real, moved: Real) -> Float:
    """Inner products of all rows of one, shape (n, m), with all of the other: shape (n, n)."""
    # float32 decides an assignment as well as float64, in half the time, and its numbers are in
    # float64 here where they would not fit.
    return np.asarray(anchor @ moved.T, np.float64)


def row_products(one: Real, two: Real) -> Float:
    """Inner product of each row of one, shape (n, m), with the same row of the other: (n,)."""
    return np.asarray(np.einsum("ij,ij->i", one, two), np.float64)
