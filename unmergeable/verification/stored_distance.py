"""How far one stored tensor is from another, while both come piece after piece."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from unmergeable.gauge.floats import FORMATS, Bytes, Format

# Numbers that are looked at together: few enough for both models' to stay in a core's cache.
_TOGETHER = 1 << 17


class StoredDistance(NamedTuple):
    """A tensor's distance from the one that was wanted.

    Attributes:
        relative: Frobenius norm of the difference, relative to the wanted tensor's; None if they
            are the same bit for bit. Infinite where a dtype has no numbers, or where some number is
            not finite.
        norm: the wanted tensor's, 1 if that is 0, not finite if some number of it is not; of no
            meaning where `relative` is None.
    """

    relative: float | None
    norm: float


def stored_distance(
    wanted: Callable[[int, int], Bytes], dtype: str, pieces: Iterable[Bytes], other: str
) -> StoredDistance:
    """Compares two tensors of one shape.

    Args:
        wanted: gives the stored bytes from a start to a stop. It is asked for all of them once, in
            order; those before the first difference it is asked for again.
        dtype: theirs.
        pieces: the bytes of the tensor that is measured, in order.
        other: theirs.
    """
    if not {dtype, other} <= FORMATS.keys():
        return _without_numbers(wanted, pieces) if dtype == other else _FAR
    one, two = FORMATS[dtype], FORMATS[other]
    width, done, differs = one.number.itemsize, 0, False
    gap = scale = 0.0
    for piece in pieces:
        for have in _cut(piece, _TOGETHER * two.number.itemsize):
            stop = done + len(have) // two.number.itemsize * width
            want = wanted(done, stop)
            if not differs and not (dtype == other and np.array_equal(want, have)):
                differs = True
                scale = _squares(wanted, done, one)
            if differs:
                x = one.values(want)
                scale += float(x @ x)
                with np.errstate(invalid="ignore"):  # of infinities: NaN is the right answer
                    x -= two.values(have)
                gap += float(x @ x)
            done = stop
    if not differs:
        return StoredDistance(None, 1.0)
    norm = math.sqrt(scale) or 1.0
    relative = math.sqrt(gap) / norm
    return StoredDistance(math.inf if math.isnan(relative) else relative, norm)


_FAR = StoredDistance(math.inf, 1.0)


def _without_numbers(
    wanted: Callable[[int, int], Bytes], pieces: Iterable[Bytes]
) -> StoredDistance:
    done = 0
    for piece in pieces:
        if not np.array_equal(wanted(done, done + len(piece)), piece):
            return _FAR
        done += len(piece)
    return StoredDistance(None, 1.0)


def _squares(wanted: Callable[[int, int], Bytes], stop: int, form: Format) -> float:
    """The sum of squares of what comes before a byte."""
    step = _TOGETHER * form.number.itemsize
    total = 0.0
    for start in range(0, stop, step):
        values = form.values(wanted(start, min(start + step, stop)))
        total += float(values @ values)
    return total


def _cut(piece: Bytes, size: int) -> Iterable[Bytes]:
    return (piece[start : start + size] for start in range(0, len(piece), size))
