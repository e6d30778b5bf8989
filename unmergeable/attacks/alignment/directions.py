"""What was added to tensors although no output shows it, brought back to the base's own.

A fit compares both models without it: what a sample of the rows has in common is taken off. Once
all else is fitted, the aligned model gets the base's own part back, so that it lies nearest to the
base, where the release was visibly moved; what nobody moved stays as it is, to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from unmergeable.architectures.directions import directions_of
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

# What all rows have in common was moved where it is so many times as far off as a row is beside it.
_FAR = 3.0
# Before a fit, it is taken off where it is so many times as large, beside all else, as the base's.
_LARGER = 1.5
# Below this share of its size, a row or a bias is not looked at.
_SEEN = 0.01
# A row that fine-tuning made so many times as long as it was is one that no input reaches.
_LONGER = 8.0
# Rows that tell what all have in common.
SAMPLE = 512
# Numbers that are in float64 at once.
_PIECE = 1 << 20


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
        self._alignment, self._readers = alignment, (protected, anchor)
        self._shapes = shapes
        every = directions_of(alignment.layout, protected.folder.shapes) if compared else []
        self._axes = {one.name: one.axis for one in every if self._is_number(one.name)}
        self._by: dict[str, Float] = {}
        self._tuned: dict[str, float] = {}  # how far rows moved otherwise, of their length

    def _is_number(self, name: str) -> bool:
        return name in self._shapes and all(r.entry(name).dtype in FORMATS for r in self._readers)

    def are_in(self, name: str) -> bool:
        """Whether something may have been added to a tensor, along one of its axes, unseen."""
        return name in self._axes

    def without(self, name: str, one: Real, two: Real) -> tuple[Real, Real]:
        """A tensor of both models, or the same rows of it, less what these rows have in common."""
        axis = self._axes.get(name)
        if axis is None:
            return one, two
        parts = common(one, two, axis)
        return one - parts[0], two - parts[1]

    def settle(self) -> None:
        """Decides what is taken off all matrices, once their spaces are fitted."""
        names = [name for name in self._axes if not self._is_bias(name)]
        with ThreadPoolExecutor(cores()) as pool:
            for name, by in zip(names, pool.map(self._found, names), strict=True):
                if by is not None:
                    self._by[name] = by

    def settle_biases(self, shifts: Shifts) -> None:
        """Decides what is taken off all biases, once vectors that moved into them are back."""
        for name in self._axes:
            if self._is_bias(name):
                with np.errstate(all="ignore"):
                    by = self._of_bias(name, *shifts.both(name))
                if by:
                    shifts.add(name, by)

    def added(self, name: str, matrix: Real) -> Real:
        """A tensor of the aligned model with what was decided."""
        by = self._by.get(name)
        return matrix if by is None else (matrix + by).astype(matrix.dtype)

    def moved(self, entry: TensorEntry, data: Bytes, moved: Callable[[], Bytes]) -> Bytes:
        """The aligned bytes of a tensor.

        Args:
            entry: which tensor of the protected model.
            data: its bytes.
            moved: makes them of all else that is fitted.
        """
        if (by := self._by.get(entry.name)) is None:
            return moved()
        form, change = FORMATS[entry.dtype], self._alignment.change(entry.name)
        out = empty(data.nbytes).view(form.pattern).reshape(entry.shape)
        with np.errstate(all="ignore"):
            for part, rows in _pieces(change, data.view(form.number).reshape(entry.shape)):
                out[part] = cast(rows + (by if len(by) == 1 else by[part]), form, True)
        return out.reshape(-1).view(np.uint8)

    def _is_bias(self, name: str) -> bool:
        return max(self._shapes[name]) == np.prod(self._shapes[name])

    def _found(self, name: str) -> Float | None:
        """What to add to a tensor, one long along its axis; None if nothing was visibly moved."""
        with np.errstate(all="ignore"):
            sample = list(self._both(name, sample=True))
            have, want = (np.concatenate(parts) for parts in zip(*sample, strict=True))
            first = np.median(have - want, axis=0)
            rest, usual = (
                float(np.sqrt(np.median(_squares(x)))) for x in (have - want - first, want)
            )
            self._tuned[name] = rest / max(usual, 1e-300)
            far = float(np.sqrt(first @ first))
            if not max(_FAR * rest, _SEEN * usual) < far < np.inf:
                return None
            total, count = np.zeros(len(first)), 0
            for have, want in self._both(name):
                off = have - want - first
                near = _squares(off) <= _LONGER**2 * (_squares(want) + far**2)
                total += off[near].sum(axis=0)
                count += int(near.sum())
            by = -(first + total / max(count, 1))
            others = [n for axis, n in enumerate(self._shapes[name]) if axis != self._axes[name]]
            return np.expand_dims(by.reshape(others), self._axes[name])

    def _both(self, name: str, sample: bool = False) -> Iterator[tuple[Float, Float]]:
        """Rows along a tensor's axis, of both models, the protected one's aligned.

        Args:
            name: of the tensor.
            sample: whether a part of the rows will do, where they keep their order.
        """
        change, axis, shape = self._alignment.change(name), self._axes[name], self._shapes[name]
        step, stride = shape[0], 1
        if axis == 0 and change.rows_stay:
            step = max(1, _PIECE // int(np.prod(shape[1:])))
            if sample:
                stride = -(-shape[0] // SAMPLE)
                step = stride * SAMPLE
        both = (slice(None), *(slice(size) for size in shape[1:]))
        for start in range(0, shape[0], step):
            part = slice(start, min(start + step, shape[0]), stride)
            have, want = (self._rows(reader, name, part) for reader in self._readers)
            have, want = (
                np.moveaxis(x[both], axis, 0).reshape(x.shape[axis], -1)
                for x in (change(have), want)
            )
            yield have, want

    def _rows(self, reader: TensorReader, name: str, part: slice) -> Float:
        entry = reader.entry(name)
        data = reader.rows(name, part)
        return values(data, (-1, *entry.shape[1:]), entry.dtype).astype(np.float64)

    def _of_bias(self, name: str, have: Float, want: Float) -> float:
        """What to add to all entries of a bias; zero if they were not visibly moved."""
        size = min(have.size, want.size)
        have, want = have.reshape(-1)[:size], want.reshape(-1)[:size]
        first = float(np.median(have - want))
        off, usual = have - want - first, float(np.sqrt(np.median(want**2)))
        rest = float(np.sqrt(np.median(off**2)))
        beside = name.removesuffix("bias") + "weight"
        rest = max(rest, self._tuned.get(beside, 0.0) * usual)
        if not max(_FAR * rest, _SEEN * usual) < abs(first) < np.inf:
            return 0.0
        near = np.abs(off) <= _LONGER * (np.abs(want) + abs(first))
        return -(first + float(off[near].mean()))


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


def _pieces(change: TensorMap | StackMap, stored: Any) -> Iterator[tuple[slice, Float]]:
    """A moved tensor in float64, a few rows at a time where its first axis lets them be."""
    first = change.axes[0] if isinstance(change, TensorMap) and change.axes else None
    if isinstance(change, StackMap) or (first is not None and first.scale is None):
        yield slice(None), change(stored.astype(np.float64))
        return
    rest = TensorMap((None, *change.axes[1:]))
    step = max(1, _PIECE // max(1, stored[:1].size))
    for start in range(0, len(stored), step):
        part = slice(start, start + step)
        if first is None:
            yield part, rest(stored[part].astype(np.float64))
        else:
            assert first.scale is not None
            rows = stored[first.source[part]].astype(np.float64)
            yield part, rest(AxisMap.monomial(np.arange(len(rows)), first.scale[part])(rows))
