"""How far a protected model's tensors stand from the base's, before and after alignment."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from unmergeable.attacks.alignment.pairing import Shape
from unmergeable.checkpoint.header import TensorEntry
from unmergeable.checkpoint.reader import TensorReader
from unmergeable.gauge.axis_map import Float
from unmergeable.gauge.floats import FORMATS
from unmergeable.gauge.memory import Bytes
from unmergeable.gauge.parts import Real, values

# Numbers that are compared at once, so that they stay in a core's cache.
_CHUNK = 1 << 16
# Fine-tuning makes no number larger than this many times the largest of the base: what is stands
# where no input reaches, and says nothing of the distance.
REACH = 1 << 10


def cast(data: Bytes, have: str, want: str) -> Bytes:
    """A tensor's bytes in another dtype; a base is often published in another."""
    if have == want or have not in FORMATS or want not in FORMATS:
        return data
    with np.errstate(over="ignore"):
        number = FORMATS[have].values(data).astype(FORMATS[want].number)
    return number.view(np.uint8)


def distances(
    anchor: TensorReader, entry: TensorEntry, name: str, shape: Shape, data: Bytes, out: Bytes
) -> Float:
    """Squared distances to the base before and after, and the base's squared norm: shape (3,).

    They are finite: infinities, NaN and numbers beyond all that fine-tuning makes are left out. The
    base's numbers are read a few at a time, as the largest tensor is in memory twice already.

    Args:
        anchor: the base's tensors.
        entry: of the protected tensor.
        name: of the base's tensor in whose place it goes; mostly the same one.
        shape: of what both models have of it.
        data: its bytes.
        out: the same, aligned.
    """
    total, largest = np.zeros(3), 0.0
    width = FORMATS[entry.dtype].pattern.itemsize
    data, out = (_cut(whole, entry.shape, shape, width) for whole in (data, out))
    pieces = _pieces(anchor, name, shape, entry.dtype)
    olds = None if name == entry.name else _pieces(anchor, entry.name, shape, entry.dtype)
    start = 0
    for base in pieces:
        part = slice(start, start + len(base))
        start = part.stop
        old = base if olds is None else next(olds)
        before, after, first, last = (
            values(piece, (-1,), entry.dtype) for piece in (data[part], out[part], old, base)
        )
        norm = _square(last)
        largest = max(largest, float(np.abs(last).max(initial=0)))
        gap = after - last
        left = _square(gap)
        if not left <= REACH**2 * norm:
            left = _square(np.where(np.abs(after) <= REACH * largest, gap, 0))
        total += [_square(before - first), left, norm]
    return total


def _square(numbers: Real) -> float:
    """The sum of squares, of what is finite."""
    total = float(np.vdot(numbers, numbers))
    if math.isfinite(total):
        return total
    wide = numbers.astype(np.float64)
    wide[~np.isfinite(wide)] = 0
    return float(np.minimum(np.vdot(wide, wide), 1e300))


def _cut(data: Bytes, shape: Shape, common: Shape, width: int) -> Bytes:
    """The bytes of a part of a tensor, that from the first positions of each axis on."""
    if shape[1:] == common[1:]:  # its first rows, or all of it
        return data[: math.prod(common) * width]
    part = data.reshape(*shape, width)[tuple(map(slice, common))]
    return np.ascontiguousarray(part).reshape(-1)


def _pieces(anchor: TensorReader, name: str, common: Shape, dtype: str) -> Iterator[Bytes]:
    """A tensor of the base, or a part, in another dtype and in order, a few numbers at a time."""
    entry = anchor.entry(name)
    width, count = FORMATS[entry.dtype].pattern.itemsize, math.prod(common)
    rows = entry.shape[1:] == common[1:]
    whole = None if rows else _cut(anchor.read(name), entry.shape, common, width)
    for start in range(0, count, _CHUNK):
        part = slice(start * width, min(start + _CHUNK, count) * width)
        piece = anchor.piece(name, part.start, part.stop) if whole is None else whole[part]
        yield cast(piece, entry.dtype, dtype)
