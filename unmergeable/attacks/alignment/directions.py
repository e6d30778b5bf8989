"""What was added to tensors although no output shows it, brought back to the base's own.

A fit compares both models without it: what a sample of the rows has in common is taken off, and
what a LayerNorm does not see. Once all else is fitted, the aligned model gets the base's own part
back, so that it lies nearest to the base, where the release was visibly moved; what nobody moved
stays as it is, to the bit.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from unmergeable.architectures.directions import Direction, directions_of
from unmergeable.attacks.alignment.gains import LONGER, share
from unmergeable.checkpoint.header import TensorEntry
from unmergeable.checkpoint.reader import TensorReader
from unmergeable.gauge.axis_map import AxisMap, Float
from unmergeable.gauge.floats import FORMATS, cast
from unmergeable.gauge.memory import Bytes, empty
from unmergeable.gauge.parts import Real, values
from unmergeable.gauge.stack_map import StackMap
from unmergeable.gauge.tensor_map import TensorMap
from unmergeable.machine import cores

if TYPE_CHECKING:
    from unmergeable.attacks.alignment.engine import Alignment
    from unmergeable.attacks.alignment.shifts import Shifts

# A direction was moved where it is so many times as far off as all else is beside it.
_FAR = 3.0
# Below this share of its size, what was moved is not looked at.
_SEEN = 0.01
# Before a fit, what rows have in common is taken off where it is so many times the base's share.
_LARGER = 1.5
# Rows that tell what all have in common.
SAMPLE = 512
# Numbers that are in float64 at once.
_PIECE = 1 << 20


@dataclass(frozen=True, eq=False)
class _Added:
    """What is added along one direction of a tensor.

    Attributes:
        by: how much, at each other position; of length one along the direction's axis.
        axis: the number of the axis.
        vector: of the direction; None for the all-ones vector.
    """

    by: Float
    axis: int
    vector: Float | None

    def rows(self, part: slice) -> Float:
        """What is added to some rows of the tensor; it has room for one row, or for these."""
        by: Float = self.by if len(self.by) == 1 else self.by[part]
        if self.vector is None:
            return by
        vector = self.vector[part] if self.axis == 0 else self.vector
        return by * _on_axis(vector, self.axis, by.ndim)


class Directions:
    """What may have been added to a model's tensors unseen.

    Args:
        alignment: both models, and what is fitted so far. All stays if its method compares nothing.
    """

    def __init__(self, alignment: Alignment) -> None:
        self._alignment, self._layout = alignment, alignment.layout
        self._protected, self._anchor = alignment.protected, alignment.anchor
        self._shapes, stored = alignment.shapes, alignment.protected.folder.shapes
        self._on: dict[str, list[Direction]] = defaultdict(list)
        for one in directions_of(self._layout, stored) if alignment.compares else []:
            names = [one.name] + ([one.over.gain] if one.over else [])
            if all(map(self._is_shared, names)):
                self._on[one.name].append(one)
        self._by: dict[str, list[_Added]] = {}
        self._tuned: dict[str, float] = {}  # how far rows moved otherwise, of their length

    def _is_shared(self, name: str) -> bool:
        """Whether both models have a tensor, in plain numbers."""
        readers = (self._protected, self._anchor)
        return name in self._shapes and all(r.entry(name).dtype in FORMATS for r in readers)

    def behind_softmax(self, name: str) -> bool:
        """Whether one vector may have been added to all rows of a tensor."""
        return any(one.rows for one in self._on.get(name, ()))

    def on_rows(self, name: str) -> bool:
        """Whether a multiple of ones may have been added to each row of a table."""
        return any(not one.rows and one.axis == 1 for one in self._on.get(name, ()))

    def compared(self, name: str, one: Real, two: Real, start: int = 0) -> tuple[Real, Real]:
        """A tensor of both models, or the same rows of it, as a fit may compare it.

        Args:
            name: of the tensor, or of a stack that these are one slice of.
            one: the protected one's, as far as it is fitted.
            two: the base's.
            start: the first of its axes that is there.
        """
        for direction in self._on.get(name, ()):
            axis = direction.axis - start
            if direction.rows:
                parts = common(one, two, axis)
                one, two = one - parts[0], two - parts[1]
            else:
                one, two = self._apart(direction, one, two, axis)
        return one, two

    def _apart(self, direction: Direction, one: Real, two: Real, axis: int) -> tuple[Real, Real]:
        """A tensor of both models less what it has along a direction.

        Where that is one over a gain, it may be next to one row alone: rows of small gains do not
        tell how much it is, and count for as little afterwards.
        """
        found = self._over(direction, one.ndim, axis)
        if found is None:
            return _without(one, axis), _without(two, axis)
        vectors, trust = found
        apart = []
        for tensor, vector in zip((one, two), vectors, strict=True):
            counted = trust**2 * vector
            along = (tensor * counted).sum(axis, keepdims=True) / (counted * vector).sum()
            apart.append(((tensor - along * vector) * trust).astype(tensor.dtype))
        return apart[0], apart[1]

    def over_gains(self, name: str) -> bool:
        """Whether a tensor may have something along a vector that is one over a gain."""
        return any(one.over is not None for one in self._on.get(name, ()))

    def nearer(self, name: str, one: Real, two: Real) -> tuple[Real, Real]:
        """A tensor of both models, the protected one's brought near along vectors over gains.

        Args:
            name: of the tensor.
            one: the protected one's, fitted by now, nothing taken off; or a sample of its rows.
            two: the base's, the same.
        """
        for direction in self._on.get(name, ()):
            found = self._over(direction, one.ndim, direction.axis)
            if found is not None:
                (vector, _), trust = found
                counted = trust**2 * vector
                along = ((one - two) * counted).sum(direction.axis, keepdims=True)
                one = (one - along / (counted * vector).sum() * vector).astype(two.dtype)
        return one, two

    def _over(
        self, direction: Direction, ndim: int, axis: int
    ) -> tuple[tuple[Float, Float], Float] | None:
        """The vector of a direction over a gain in both models, as a fit compares its tensor.

        Returns:
            Both vectors, and how much more or less each position should count, along the axis of a
            tensor of so many axes; None if it is the all-ones vector.
        """
        over = direction.over
        gains = None if over is None else self._alignment.gains.aligned(over.gain, over.offset)
        if over is None or gains is None:
            return None
        trust = self._alignment.gains.trust(over.gain)
        counts = np.clip(np.minimum(*map(share, gains)), 1e-3, 1) / trust

        def placed(numbers: Float) -> Float:
            numbers = np.nan_to_num(numbers[over.places], posinf=0, neginf=0)
            return np.asarray(_on_axis(numbers, axis, ndim))

        return (placed(trust / gains[0]), placed(trust / gains[1])), placed(counts)

    def _vector(self, direction: Direction) -> Float | None:
        """The vector of a direction in the aligned model, as long as one.

        Returns:
            None for the all-ones vector.
        """
        over = direction.over
        gains = None if over is None else self._alignment.gains.aligned(over.gain, over.offset)
        if over is None or gains is None:
            return None
        vector = np.nan_to_num(1 / gains[0], posinf=0, neginf=0)[over.places]
        return np.asarray(vector / max(float(np.sqrt(vector @ vector)), 1e-300))

    def settle(self) -> None:
        """Decides what is taken off all matrices, once their spaces are fitted."""
        names = [name for name in self._on if len(self._shapes[name]) > 1]
        with ThreadPoolExecutor(cores()) as pool:
            for name, added in zip(names, pool.map(self._found, names), strict=True):
                if any(one.by.any() for one in added):
                    self._by[self._layout.source(name, self._alignment)] = added

    def settle_biases(self, shifts: Shifts) -> None:
        """Decides what is taken off all biases, once vectors that moved into them are back."""
        for name in self._on:
            if len(self._shapes[name]) == 1:
                with np.errstate(all="ignore"):
                    by = self._of_bias(name, *shifts.both(name))
                if by is not None:
                    shifts.add(name, by)

    def apart(self, bias: str, matrix: Real, off: Float) -> tuple[Real, Float]:
        """The matrix beside a bias, and how far that is off, less what no output shows of it."""
        for one in self._on.get(bias, ()):
            vector = self._vector(one)
            matrix, rest = _without(matrix, 0, vector), _without(off, 0, vector)
            off = rest.astype(np.float64)
        return matrix, off

    def added(self, name: str, matrix: Real) -> Real:
        """A tensor of the aligned model with what was decided."""
        if added := self._by.get(name):
            matrix = _plus(matrix, added, slice(None)).astype(matrix.dtype)
        return matrix

    def moved(self, entry: TensorEntry, data: Bytes, moved: Callable[[], Bytes]) -> Bytes:
        """The aligned bytes of a tensor.

        Args:
            entry: which tensor of the protected model.
            data: its bytes.
            moved: makes them of all else that is fitted.
        """
        if not (added := self._by.get(entry.name)):
            return moved()
        form, change = FORMATS[entry.dtype], self._alignment.change(entry.name)
        out = empty(data.nbytes).view(form.pattern).reshape(entry.shape)
        with np.errstate(all="ignore"):
            for part, rows in _pieces(change, data.view(form.number).reshape(entry.shape)):
                out[part] = cast(_plus(rows, added, part), form, True)
        return out.reshape(-1).view(np.uint8)

    def _found(self, name: str) -> list[_Added]:
        """What to add along each direction of a tensor; zeros where it was not moved."""
        with np.errstate(all="ignore"):
            added: list[_Added] = []
            for one in self._on[name]:
                vector: Float | None = self._vector(one)
                by = self._of_rows(one) if one.rows else self._of_means(one, vector, added)
                added.append(_Added(by, one.axis, vector))
            return added

    def _of_rows(self, one: Direction) -> Float:
        """What to add to all rows of a tensor that a softmax does not tell apart."""
        gaps, wanted = zip(*self._gaps(one, sample=True), strict=True)
        off, want = np.concatenate(gaps), np.concatenate(wanted)
        first = np.median(off, axis=0)
        rest, usual = (float(np.sqrt(np.median(_squares(x)))) for x in (off - first, want))
        self._tuned[one.name] = rest / max(usual, 1e-300)
        far = float(np.sqrt(first @ first))
        total, count = np.zeros(len(first)), 0
        if max(_FAR * rest, _SEEN * usual) < far < np.inf:
            for off, want in self._gaps(one):
                off -= first
                near = _squares(off) <= LONGER**2 * (_squares(want) + far**2)
                total -= (off[near] + first).sum(axis=0)
                count += int(near.sum())
        others = [n for axis, n in enumerate(self._shapes[one.name]) if axis != one.axis]
        return np.expand_dims((total / max(count, 1)).reshape(others), one.axis)

    def _gaps(self, one: Direction, sample: bool = False) -> Iterator[tuple[Float, Float]]:
        """How far rows are off the base's, and those; less what each row has added to it alone."""
        for _, *both in self._both(one.name, sample and one.axis == 0):
            have, want = (np.moveaxis(x, one.axis, 0).reshape(x.shape[one.axis], -1) for x in both)
            off = have - want
            for other in self._on[one.name]:
                if other is not one:
                    off = _without(off, 1, self._vector(other)).astype(np.float64)
            yield off, want

    def _of_means(self, one: Direction, vector: Float | None, before: list[_Added]) -> Float:
        """What to add along an axis, at each other position."""
        shape, axis = self._shapes[one.name], one.axis
        others = [n for at, n in enumerate(shape) if at != axis]
        total = np.zeros((3, *others))
        for part, have, want in self._both(one.name):
            off = _plus(have, before, part) - want
            along = off if vector is None else off * _on_axis(vector, axis, off.ndim, part)
            sums = np.stack([along.sum(axis), (off * off).sum(axis), (want * want).sum(axis)])
            if axis == 0:
                total += sums
            else:
                total[:, part] = sums
        length = shape[axis] if vector is None else 1
        by, moved = -total[0] / length, total[0] ** 2 / length
        rest, usual = float(np.median(total[1] - moved)), float(np.median(total[2]))
        self._tuned[one.name] = math.sqrt(max(rest, 0.0) / max(usual, 1e-300))
        if not np.median(moved) > max(_FAR**2 * rest, _SEEN**2 * usual):
            # Most were not moved; of a short table some may have been.
            far = np.maximum(_FAR**2 * np.maximum(rest, total[1] - moved), _SEEN**2 * usual)
            by = np.where(moved > far, by, 0.0)
        whole = self._protected.entry(one.name).shape  # with what the base does not have
        more = [
            (0, n - m) for at, (n, m) in enumerate(zip(whole, shape, strict=True)) if at != axis
        ]
        return np.expand_dims(np.pad(np.nan_to_num(by, posinf=0, neginf=0), more), axis)

    def _both(self, name: str, sample: bool = False) -> Iterator[tuple[slice, Float, Float]]:
        """A tensor of both models, a few rows at a time, the protected one's aligned.

        Args:
            name: of the base's tensor.
            sample: whether a part of the rows will do, where they keep their order.
        """
        source = self._layout.source(name, self._alignment)
        change, entry = self._alignment.change(source), self._protected.entry(source)
        count, *rest = self._shapes[name]
        both = (slice(None), *map(slice, rest))
        pieces: Iterator[tuple[slice, Float]]
        if change.rows_stay:
            stride = -(-count // SAMPLE) if sample else 1
            step = stride * max(1, _PIECE // max(1, int(np.prod(rest))))
            parts = (slice(n, min(n + step, count), stride) for n in range(0, count, step))
            pieces = ((part, change(self._rows(self._protected, source, part))) for part in parts)
        else:
            stored = self._protected.read(source).view(FORMATS[entry.dtype].number)
            pieces = _pieces(change, stored.reshape(entry.shape))
        for part, rows in pieces:
            yield part, rows[both], self._rows(self._anchor, name, part)[both]

    def _rows(self, reader: TensorReader, name: str, part: slice) -> Float:
        entry = reader.entry(name)
        data = reader.rows(name, part)
        return values(data, (-1, *entry.shape[1:]), entry.dtype).astype(np.float64)

    def _of_bias(self, name: str, have: Float, want: Float) -> Float | None:
        """What to add to the entries of a bias; None if they were not visibly moved."""
        size = min(len(have), len(want))
        have, want = have[:size], want[:size]
        vector = self._vector(self._on[name][0])
        if vector is not None:
            have, want = (np.nan_to_num(x / vector, posinf=0, neginf=0) for x in (have, want))
        first = float(np.median(have - want))
        off, usual = have - want - first, float(np.sqrt(np.median(want**2)))
        rest = float(np.sqrt(np.median(off**2)))
        beside = name.removesuffix("bias") + "weight"
        rest = max(rest, self._tuned.get(beside, 0.0) * usual)
        if not max(_FAR * rest, _SEEN * usual) < abs(first) < np.inf:
            return None
        near = np.abs(off) <= LONGER * (np.abs(want) + abs(first))
        by = -(first + float(off[near].mean()))
        return np.asarray(by if vector is None else by * vector)


def common(one: Real, two: Real, axis: int) -> tuple[Real | float, Real | float]:
    """What a sample of rows along one axis has in common, in both models, whatever single ones are.

    Nothing, where the protected one's have not visibly more in common than the base's.
    """
    found, shares = [], []
    for tensor in (one, two):
        stride = -(-tensor.shape[axis] // SAMPLE)
        sample = np.moveaxis(tensor, axis, 0)[::stride]
        with np.errstate(all="ignore"):
            middle = np.nan_to_num(np.median(sample, 0), posinf=0, neginf=0)
            rest = np.median(np.square(sample - middle).reshape(len(sample), -1).sum(1))
            shares.append(float(np.vdot(middle, middle) / rest))
        found.append(np.expand_dims(middle, axis))
    return (found[0], found[1]) if shares[0] > _LARGER**2 * shares[1] else (0.0, 0.0)


def _squares(rows: Float) -> Float:
    return np.asarray(np.einsum("ij,ij->i", rows, rows))


def _plus(rows: Real, added: Sequence[_Added], part: slice) -> Float:
    """Some rows of a tensor with what is added to it."""
    total = np.array(rows, np.float64)
    for one in added:
        total += one.rows(part)
    return total


def _on_axis(vector: Real, axis: int, ndim: int, part: slice = slice(None)) -> Real:
    """A vector along one axis of a tensor, or of some rows of it."""
    vector = vector[part] if axis == 0 else vector
    return np.expand_dims(vector, [other for other in range(ndim) if other != axis])


def _without(tensor: Real, axis: int, vector: Float | None = None) -> Real:
    """A tensor less what it has along a vector; None for the all-ones vector."""
    if vector is None:
        return np.asarray(tensor - tensor.mean(axis, keepdims=True))
    along = _on_axis(vector.astype(tensor.dtype), axis, tensor.ndim)
    return np.asarray(tensor - (tensor * along).sum(axis, keepdims=True) * along)


def _pieces(change: TensorMap | StackMap, stored: Any) -> Iterator[tuple[slice, Float]]:
    """A moved tensor in float64, a few rows at a time where its first axis lets them be."""
    if isinstance(change, StackMap):
        for place, old in enumerate(change.source):
            made = change.slices[old](stored[old].astype(np.float64))
            yield slice(place, place + 1), made[None]
        return
    first = change.axes[0] if change.axes else None
    if first is not None and first.scale is None:
        yield slice(0, len(stored)), change(stored.astype(np.float64))
        return
    rest = TensorMap((None, *change.axes[1:]))
    step = max(1, _PIECE // max(1, stored[:1].size))
    for start in range(0, len(stored), step):
        part = slice(start, min(start + step, len(stored)))
        if first is None:
            yield part, rest(stored[part].astype(np.float64))
        else:
            assert first.scale is not None
            rows = stored[first.source[part]].astype(np.float64)
            yield part, rest(AxisMap.monomial(np.arange(len(rows)), first.scale[part])(rows))
