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
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from unmergeable.architectures.directions import Direction, Over, directions_of
from unmergeable.attacks.alignment.gains import LONGER, SMALL, share
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
# So is what they have along one over a gain, where its share is so many times the base's, or less.
_MORE = 1.2
# Gains of a smaller share than this of what tells a scale for certain tell nothing.
_NOTHING = 1e-3
# Rows that tell what all have in common.
SAMPLE = 512
# Rows that tell whether all were moved along a vector.
_ROWS = 64
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
            over = one.over
            names = [over.gain, over.bias, over.taker] if over else []
            if all(map(self._is_shared, filter(None, (one.name, *names)))):
                self._on[one.name].append(one)
        self._takers = {one.over.taker for on in self._on.values() for one in on if one.over}
        self._taken_off: set[str] = set()  # tensors that fits compare without such vectors
        self._beside: set[str] = set()  # gains along which a tensor was seen to have moved
        self._stayed: set[str] = set()  # tensors that a sample shows not to have moved along them
        self._by: dict[str, list[_Added]] = {}
        self._tuned: dict[str, float] = {}  # how far rows moved otherwise, of their length

    def _is_shared(self, name: str) -> bool:
        """Whether both models have a tensor, in plain numbers."""
        readers = (self._protected, self._anchor)
        return name in self._shapes and all(r.entry(name).dtype in FORMATS for r in readers)

    def are_in(self, name: str) -> bool:
        """Whether a tensor is a bias that takes what was added to a matrix."""
        return name in self._takers

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
        # What rows have in common stands out once each has less of the rest.
        for direction in reversed(self._on.get(name, [])):
            one, two = self._apart(direction, one, two, direction.axis - start)
        return one, two

    def _apart(self, direction: Direction, one: Real, two: Real, axis: int) -> tuple[Real, Real]:
        """A tensor of both models less what it has along a direction.

        Where that is one over a gain, it may be next to one row alone: rows of small gains do not
        tell how much it is, and count for as little afterwards. It stays in both where the
        protected one's has visibly as much of it as the base's, and no other was moved that reads
        the same norm.
        """
        if direction.rows:
            parts = common(one, two, axis)
            return one - parts[0], two - parts[1]
        if direction.over is None:
            return _without(one, axis), _without(two, axis)
        vectors, sizes, trust = self._over(direction, one.shape[axis])
        counts = np.clip(sizes, _NOTHING, 1) ** 2 / trust
        both = list(zip((one, two), vectors, strict=True))
        if direction.over.gain not in self._beside:
            for by in (counts, np.ones_like(counts)):
                found = [_share_along(_some(x, axis) * by, v * by) for x, v in both]
                if not found[0] / _MORE < found[1] < found[0] * _MORE:
                    break
            else:
                return one, two
        self._taken_off.add(direction.name)
        for number, (tensor, vector) in enumerate(both):
            counted = counts**2 * vector
            along = -np.tensordot(tensor, counted.astype(tensor.dtype), (axis, 0))
            made = _sum(tensor, axis, along / (counted @ vector), vector)
            both[number] = _scaled(made, axis, counts), vector
        return both[0][0], both[1][0]

    def over_gains(self, name: str) -> bool:
        """Whether a tensor may have something along a vector that is one over a gain."""
        return any(one.over is not None for one in self._on.get(name, ()))

    def taken_off(self, name: str) -> bool:
        """Whether fits compared a tensor without that."""
        return name in self._taken_off

    def nearer(self, name: str, one: Real, two: Real) -> tuple[Real, Real]:
        """A tensor of both models, the protected one's brought near along vectors over gains.

        Args:
            name: of the tensor.
            one: the protected one's, fitted by now, nothing taken off; or a sample of its rows.
            two: the base's, the same.
        """
        if not self.over_gains(name):
            return one, two
        self._stayed.add(name)
        for direction in reversed(self._on[name]):
            axis = direction.axis
            if direction.over is None:
                one, two = self._apart(direction, one, two, axis)
                continue
            shown = max(1, one.size // one.shape[axis] // SAMPLE) if one.ndim == 2 else 1
            some = tuple(slice(None, None, 1 if n == axis else shown) for n in range(one.ndim))
            one, two = one[some], two[some]
            (vector, _), shares, _ = self._over(direction, one.shape[axis])
            have, want = (
                np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis]).astype(np.float64)
                for x in (one, two)
            )
            off = have - want
            if self.behind_softmax(name):
                off, want = (x - np.median(x, axis=0) for x in (off, want))
            few = slice(None, None, -(-len(off) // _ROWS))
            if not _along_any(off[few], want[few], vector, shares).any():
                continue
            by = _along_any(off, want, vector, shares)
            if by.any():
                self._stayed.discard(name)
                self._beside.add(direction.over.gain)
                others = [size for n, size in enumerate(one.shape) if n != axis]
                one = _sum(one, axis, -by.reshape(others), vector).astype(two.dtype)
        return one, two

    def _over(self, direction: Direction, size: int) -> tuple[tuple[Float, Float], Float, Float]:
        """The vector of a direction over a gain in both models, as a fit compares its tensor.

        Returns:
            Both vectors; how large each gain is, of what tells a scale for certain; and how much
            each column counts by now. Each is of that size.
        """
        over, ones = direction.over, np.ones(size)
        gains = None if over is None else self._alignment.gains.aligned(over.gain, over.offset)
        if over is None or gains is None:
            return (ones, ones), ones, ones
        trust = self._alignment.gains.trust(over.gain) * np.ones(len(gains[0]))

        def placed(numbers: Float) -> Float:
            return np.asarray(np.nan_to_num(numbers[over.places], posinf=0, neginf=0))

        vectors = placed(trust / gains[0]), placed(trust / gains[1])
        return vectors, placed(np.minimum(*map(share, gains))), placed(trust)

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
        names = [name for name in self._on if self._may_have_moved(name)]
        with ThreadPoolExecutor(cores()) as pool:
            for name, added in zip(names, pool.map(self._found, names), strict=True):
                if any(one.by.any() for one in added):
                    self._by[self._layout.source(name, self._alignment)] = added
                for one, more in zip(self._on[name], added, strict=True):
                    if one.over is not None and one.over.taker and more.by.any():
                        self._give_back(one.over, one.axis, more)

    def _may_have_moved(self, name: str) -> bool:
        """Whether a matrix is to be looked at as a whole."""
        told = name in self._stayed and all(one.over is not None for one in self._on[name])
        return len(self._shapes[name]) > 1 and not told

    def _give_back(self, over: Over, axis: int, added: _Added) -> None:
        """Takes from a bias what its matrix has more of that reads a bias behind a gain."""
        with np.errstate(all="ignore"):
            made = -added.by.squeeze(axis) * self._of_bias_behind(over, added)
        self._alignment.shifts.add(over.taker, np.nan_to_num(made, posinf=0, neginf=0))

    def settle_biases(self, shifts: Shifts) -> None:
        """Decides what is taken off all biases, once vectors that moved into them are back."""
        for name in self._on:
            if len(self._shapes[name]) == 1:
                with np.errstate(all="ignore"):
                    by = self._of_bias(name, *shifts.both(name))
                if by is not None:
                    shifts.add(name, by)
        for name, added in self._by.items():
            for one, more in zip(self._on[name], added, strict=True):
                if one.over is not None and one.over.taker and more.by.any():
                    self._share_out(one.over, one.axis, more)

    def _share_out(self, over: Over, axis: int, added: _Added) -> None:
        """Moves on between a matrix and its bias what brings both closest to the base's."""
        have, want = self._alignment.shifts.both(over.taker)
        if have.shape != want.shape:
            return
        with np.errstate(all="ignore"):
            made = self._of_bias_behind(over, added)
            by = np.nan_to_num((have - want) * made / (1 + made**2), posinf=0, neginf=0)
        np.add(added.by, np.expand_dims(by, axis), out=added.by)
        self._alignment.shifts.add(over.taker, -by * made)

    def _of_bias_behind(self, over: Over, added: _Added) -> float:
        """What a vector that is added to a reader makes of the bias behind the gain."""
        bias, _ = self._alignment.shifts.both(over.bias)
        vector = np.ones(len(over.places)) if added.vector is None else added.vector
        return float(np.nan_to_num(bias[over.places] @ vector, posinf=0, neginf=0))

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
            on, added = self._on[name], list[_Added]()
            several = sum(not one.rows for one in on) > 1  # then one hides the other
            for one in on:
                vector: Float | None = self._vector(one)
                by = self._of_rows(one) if one.rows else self._of_means(one, vector, added, several)
                added.append(_Added(by, one.axis, vector))
            for number, one in enumerate(on if several else ()):
                if not one.rows:
                    others = added[:number] + added[number + 1 :]
                    by = self._of_means(one, added[number].vector, others)
                    added[number] = replace(added[number], by=by)
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

    def _of_means(
        self, one: Direction, vector: Float | None, before: list[_Added], hidden: bool = False
    ) -> Float:
        """What to add along an axis, at each other position.

        Args:
            one: the direction.
            vector: its vector; None for the all-ones vector.
            before: what is added along others.
            hidden: whether others may hide what was visibly moved, so that all of it is told.
        """
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
        if not hidden:
            by = by * _moved(moved, total[1] - moved, total[2])
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


def _some(tensor: Real, axis: int) -> Float:
    """Some of what stands along one axis of a tensor, as rows."""
    rows = np.moveaxis(tensor, axis, -1).reshape(-1, tensor.shape[axis])
    return np.asarray(rows[:: -(-len(rows) // _ROWS)], np.float64)


def _share_along(rows: Float, vector: Float) -> float:
    """The share of the squares of the usual row that is along a vector."""
    along = (rows @ vector) ** 2 / (vector @ vector)
    return float(np.median(np.nan_to_num(along / _squares(rows), posinf=0, neginf=0)))


def _along_any(off: Float, want: Float, vector: Float, shares: Float) -> Float:
    """How much each row has of a vector over gains, whatever the scales of its columns are.

    Minimises the squares of off - by * vector less multiples of the base's columns. Of those, the
    gain says as much as one number more does, if it is as large as the usual one.

    Args:
        off: how far rows are from the base's, shape (n, m).
        want: the base's.
        vector: shape (m,).
        shares: how large each gain is, of what tells a scale for certain.

    Returns:
        Zeros for rows that were not visibly moved.
    """
    told = shares > _NOTHING
    vector, off = np.where(told, vector, 0), np.nan_to_num(off * told, posinf=0, neginf=0)
    unit = want / np.sqrt(np.maximum((want**2).sum(0), 1e-300))
    free = len(want) / np.maximum(SMALL * shares, _NOTHING) ** 2
    unit = unit * np.sqrt(free / (1 + free))
    seen, whole = unit * vector, max(float(vector @ vector), 1e-300)

    def apart(rows: Float) -> Float:
        return np.asarray(rows - unit * (unit * rows).sum(0))

    right = apart(off) @ vector
    if len(seen) <= len(vector):
        by = np.linalg.solve(whole * np.eye(len(seen)) - seen @ seen.T, right)
    else:
        inner = whole * np.eye(len(vector)) - seen.T @ seen
        by = (right + seen @ np.linalg.solve(inner, seen.T @ right)) / whole
    rest = _squares(apart(off - by[:, None] * vector))
    return np.asarray(by * _moved(by**2 * whole, rest, _squares(want)))


def _moved(moved: Float, rest: Float, want: Float) -> Any:
    """Which rows were visibly moved along a vector: all if the usual one was, or some far ones.

    Args:
        moved: the squares of what each has along the vector.
        rest: of what else it is off.
        want: of the base's.
    """
    far, near, usual = map(np.median, (moved, rest, want))
    if far > max(near, _SEEN**2 * usual):
        return True
    return moved > np.maximum(_FAR**2 * np.maximum(rest, near), _SEEN**2 * usual)


def _sum(tensor: Real, axis: int, by: Real, vector: Float) -> Real:
    """A tensor with a vector added along one axis, so many times at each other position."""
    made = np.expand_dims(by.astype(tensor.dtype), axis) * _on_axis(
        vector.astype(tensor.dtype), axis, tensor.ndim
    )
    return np.asarray(np.add(tensor, made, out=made))


def _scaled(tensor: Real, axis: int, by: Float) -> Real:
    """A tensor of one's own times a vector along one axis."""
    if (by != 1).any():
        tensor *= _on_axis(by.astype(tensor.dtype), axis, tensor.ndim)
    return tensor


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
