"""What was added to tensors although no output shows it, brought back to the base's own.

A fit compares both models without it: what a sample of the rows has in common is taken off, and
what a LayerNorm does not see. Once all else is fitted, the aligned model gets the base's own part
back, so that it lies nearest to the base, where the release was visibly moved; what nobody moved
stays as it is, to the bit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from unmergeable.architectures.directions import Direction, directions_of
from unmergeable.attacks.alignment.pairing import Shape
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
# Before a fit, it is taken off where it is so many times as large, beside all else, as the base's.
_LARGER = 1.5
# A row that fine-tuning made so many times as long as it was is one that no input reaches.
_LONGER = 8.0
# Rows that tell what all have in common.
SAMPLE = 512
# Numbers that are in float64 at once.
_PIECE = 1 << 20
# What is added to a tensor along each direction: how much, and the direction, to be multiplied.
_Added = list[tuple[Float, Float]]


class Directions:
    """What may have been added to a model's tensors unseen.

    Args:
        alignment: what is fitted so far.
        protected: the protected model's tensors.
        anchor: the base's.
        shapes: of what both have, by name.
        compared: whether the method compares the two; else all stays.
    """

    def __init__(
        self,
        alignment: Alignment,
        protected: TensorReader,
        anchor: TensorReader,
        shapes: Mapping[str, Shape],
        compared: bool = True,
    ) -> None:
        self._alignment, self._layout = alignment, alignment.layout
        self._protected, self._anchor, self._shapes = protected, anchor, shapes
        self._on: dict[str, list[Direction]] = defaultdict(list)
        for one in directions_of(self._layout, protected.folder.shapes) if compared else []:
            others = (one.adder, one.taker, one.over.gain if one.over else "")
            if all(map(self._is_number, (one.name, *filter(None, others)))):
                self._on[one.name].append(one)
        self._by: dict[str, _Added] = {}
        self._tuned: dict[str, float] = {}  # how far rows moved otherwise, of their length

    def _is_number(self, name: str) -> bool:
        readers = self._protected, self._anchor
        return name in self._shapes and all(r.entry(name).dtype in FORMATS for r in readers)

    def behind_softmax(self, name: str) -> bool:
        """Whether one vector may have been added to all rows of a tensor."""
        return any(one.rows for one in self._on.get(name, ()))

    def on_rows(self, name: str, folded: bool) -> bool:
        """Whether a multiple of ones may have been added to each row of a table.

        Args:
            name: of the table.
            folded: whether it stands behind the gain of the norm that it reads.
        """
        return any(
            not one.rows and one.axis == 1 and (folded or one.over is None)
            for one in self._on.get(name, ())
        )

    def compared(
        self, name: str, one: Real, two: Real, axes: slice = slice(0, None)
    ) -> tuple[Real, Real]:
        """A tensor of both models, or the same rows of it, as a fit may compare it.

        Args:
            name: of the tensor, or of a stack that these are one slice of.
            one: the protected one's, as far as it is fitted.
            two: the base's.
            axes: which of its axes are there.
        """
        every = self._on.get(name, ())
        for each in every:
            if not each.rows:
                one, two = self._centred(each, each.axis - (axes.start or 0), one, two)
        one, two = self._alignment.gains.folded(name, one, two, axes)
        for each in every:
            if each.rows:
                parts = common(one, two, each.axis - (axes.start or 0))
                one, two = one - parts[0], two - parts[1]
        return one, two

    def _centred(self, direction: Direction, axis: int, *both: Real) -> tuple[Real, Real]:
        """A tensor of both models less a multiple of a direction, if one visibly has it."""
        gains, over = self._alignment.gains, direction.over
        chosen = slice(None) if direction.positions is None else direction.positions
        behind = [np.ones(1), np.ones(1)] if over is None else gains.behind(over)
        with np.errstate(all="ignore"):
            seen = [
                np.moveaxis(x, axis, -1)[..., chosen] * gain.astype(x.dtype)
                for x, gain in zip(both, behind, strict=True)
            ]
            have, wanted = (float(np.median(np.square(x.mean(-1)) / x.var(-1))) for x in seen)
            if not have > _LARGER**2 * wanted:
                return both[0], both[1]
            share = np.ones(seen[0].shape[-1])
            if over is not None and gains.is_known(over):
                share = _inverse(behind[1]) ** 2  # the least that can be taken off
            made = [x.copy() for x in both]
            for x, scaled, gain in zip(made, seen, behind, strict=True):
                part = scaled @ (share / share.sum()).astype(x.dtype)
                np.moveaxis(x, axis, -1)[..., chosen] -= part[..., None] * _inverse(gain).astype(
                    x.dtype
                )
            return made[0], made[1]

    def settle(self, shifts: Shifts) -> None:
        """Decides what is taken off all matrices, once their spaces are fitted."""
        names = [name for name in self._on if len(self._shapes[name]) > 1]
        with ThreadPoolExecutor(cores()) as pool:
            for name, added in zip(names, pool.map(self._found, names), strict=True):
                if not any(by.any() for by, _ in added):
                    continue
                self._by[self._layout.source(name, self._alignment)] = added
                for one, (by, along) in zip(self._on[name], added, strict=True):
                    if one.taker:
                        behind = along.reshape(-1)[one.positions] @ shifts.both(one.adder)[0]
                        shifts.add(one.taker, -behind * by.reshape(-1))

    def settle_biases(self, shifts: Shifts) -> None:
        """Decides what is taken off all biases, once vectors that moved into them are back."""
        for name, (one, *_) in self._on.items():
            if len(self._shapes[name]) == 1:
                with np.errstate(all="ignore"):
                    by = self._of_bias(one, *shifts.both(name))
                if by is not None:
                    shifts.add(name, by)

    def apart(self, bias: str, matrix: Real, off: Float) -> tuple[Real, Float]:
        """The matrix beside a bias, and how far that is off, less what no output shows of it."""
        for one in self._on.get(bias, ()):
            along = self._vector(one)
            along = along / np.sqrt(along @ along)
            thin = along.astype(matrix.dtype)
            matrix = matrix - np.outer(thin, thin @ matrix)
            off = off - along * (along @ off)
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

    def _vector(self, one: Direction) -> Float:
        """A direction, with zeros at positions that it does not have."""
        along = np.ones(self._protected.entry(one.name).shape[one.axis])
        if one.over is not None:
            gain = _inverse(self._alignment.gains.behind(one.over)[0])
            along[:] = 0
            along[slice(None) if one.positions is None else one.positions] = gain
        return along

    def _found(self, name: str) -> _Added:
        """What to add to a tensor, for each of its directions; zeros where it was not moved."""
        with np.errstate(all="ignore"):
            others = [one for one in self._on[name] if not one.rows]
            along = [self._vector(one) for one in others]
            added = [self._of_rows(one, along) for one in self._on[name] if one.rows]
            return added + (self._of_others(others, along, added) if others else [])

    def _of_rows(self, one: Direction, others: list[Float]) -> tuple[Float, Float]:
        """What to add to all rows of a tensor that a softmax does not tell apart."""
        gaps, wanted = zip(*self._gaps(one, others, sample=True), strict=True)
        off, want = np.concatenate(gaps), np.concatenate(wanted)
        first = np.median(off, axis=0)
        rest, usual = (float(np.sqrt(np.median(_squares(x)))) for x in (off - first, want))
        self._tuned[one.name] = rest / max(usual, 1e-300)
        far = float(np.sqrt(first @ first))
        total, count = np.zeros(len(first)), 0
        if max(_FAR * rest, _SEEN * usual) < far < np.inf:
            for off, want in self._gaps(one, others):
                near = _squares(off - first) <= _LONGER**2 * (_squares(want) + far**2)
                total -= off[near].sum(axis=0)
                count += int(near.sum())
        shape = [n for axis, n in enumerate(self._shapes[one.name]) if axis != one.axis]
        by = (total / max(count, 1)).reshape(shape)
        return np.expand_dims(by, one.axis), np.ones([1] * (len(shape) + 1))

    def _gaps(
        self, one: Direction, others: list[Float], sample: bool = False
    ) -> Iterator[tuple[Float, Float]]:
        """How far rows are off the base's, and those; less what each row has of directions."""
        for _, *both in self._both(one.name, sample and one.axis == 0):
            have, want = (np.moveaxis(x, one.axis, 0).reshape(x.shape[one.axis], -1) for x in both)
            have = have - want
            for u in others:
                have -= np.outer(have @ u / (u @ u), u)
            yield have, want

    def _of_others(self, every: list[Direction], along: list[Float], before: _Added) -> _Added:
        """What to add along directions of a tensor that it has a multiple of at each position."""
        name, axis = every[0].name, every[0].axis
        shape = self._shapes[name]
        sums = np.zeros((len(every), 3, *(n for at, n in enumerate(shape) if at != axis)))
        for part, have, want in self._both(name):
            off = _plus(have, before, part) - want
            for total, u in zip(sums, along, strict=True):
                u = u[part] if axis == 0 else u
                here = (u != 0).astype(float)
                parts = [(off, u), (off * off, here), (want * want, here)]
                made = np.stack([np.tensordot(x, by, (axis, 0)) for x, by in parts])
                if axis == 0:
                    total += made
                else:
                    total[:, part] = made
        return [
            self._of_sums(one, u, *total) for one, u, total in zip(every, along, sums, strict=True)
        ]

    def _of_sums(
        self, one: Direction, u: Float, inner: Float, off: Float, want: Float
    ) -> tuple[Float, Float]:
        """What to add along a direction, by sums over its axis.

        Args:
            one: the direction.
            u: its numbers.
            inner: their products with how far the tensor is off the base's, at each other position.
            off: the squares of that.
            want: the squares of the base's.
        """
        moved = inner**2 / (u @ u)
        least = max(_FAR**2 * float(np.median(off - moved)), _SEEN**2 * float(np.median(want)))
        by = np.nan_to_num(-inner / (u @ u), posinf=0, neginf=0)
        by = by if np.median(moved) > least else np.zeros_like(by)
        whole, both = self._protected.entry(one.name).shape, self._shapes[one.name]
        more = [n - m for n, m in zip(whole, both, strict=True)]  # where the base has nothing
        by = np.pad(by, [(0, n) for axis, n in enumerate(more) if axis != one.axis])
        shape = [-1 if axis == one.axis else 1 for axis in range(len(whole))]
        return np.expand_dims(by, one.axis), u.reshape(shape)

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

    def _of_bias(self, one: Direction, have: Float, want: Float) -> Float | None:
        """What to add to a bias along its direction; None if it was not visibly moved."""
        size = min(len(have), len(want))
        along = self._vector(one)
        have, want = (x[:size] / along[:size] for x in (have, want))
        first = float(np.median(have - want))
        off, usual = have - want - first, float(np.sqrt(np.median(want**2)))
        rest = float(np.sqrt(np.median(off**2)))
        beside = one.name.removesuffix("bias") + "weight"
        rest = max(rest, self._tuned.get(beside, 0.0) * usual)
        if not max(_FAR * rest, _SEEN * usual) < abs(first) < np.inf:
            return None
        near = np.abs(off) <= _LONGER * (np.abs(want) + abs(first))
        return -(first + float(off[near].mean())) * along


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


def _inverse(gain: Float) -> Float:
    """One over a gain; zero where that says nothing."""
    told = np.abs(gain) > 1e-12 * np.abs(gain).max(initial=0)
    return np.where(told, 1 / np.where(told, gain, 1), 0)


def _plus(rows: Real, added: _Added, part: slice) -> Float:
    """Some rows of a tensor with what is added to it."""
    total = np.array(rows, np.float64)
    for factors in added:
        one, two = (x if len(x) == 1 else x[part] for x in factors)
        total += one * two
    return total


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
