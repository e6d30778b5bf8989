"""Vectors that were added to biases and taken up by others, brought back to the base's own split.

Such biases are no evidence while anything else is fitted. Once all is, each shift is the one that
brings a bias and those that took it up closest to the base's. It is moved back where the release
was visibly moved alone, so that what nobody moved stays as it is, to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from unmergeable.architectures.norms import Norm
from unmergeable.architectures.shifts import Shift, Taker, shifts_of
from unmergeable.checkpoint.header import TensorEntry
from unmergeable.checkpoint.in_order import in_order
from unmergeable.gauge.axis_map import Float
from unmergeable.gauge.floats import FORMATS, cast
from unmergeable.gauge.memory import Arena, Bytes
from unmergeable.gauge.parts import Real, moved_values, values
from unmergeable.machine import cores

if TYPE_CHECKING:
    from unmergeable.attacks.alignment.engine import Alignment

# Fine-tuning moves biases less than so many times as far as the matrix beside them.
_FAR = 3.0
# A bias counts as no smaller than this share of what stands beside it.
_SHARE = 0.1
# Below this share of their size, biases are not looked at: fine-tuning alone moves them as far.
_SEEN = 0.01
# A shift is moved back if that leaves no more than this share of the squared distance.
_CLOSER = 0.25
_STEPS = 50


class Shifts:
    """The shifts of all biases of a model.

    Args:
        alignment: both models, and what is fitted so far. Biases stay if its method compares
            nothing.
        norms: those whose gains are free.
    """

    def __init__(self, alignment: Alignment, norms: list[Norm]) -> None:
        self._alignment, shapes = alignment, alignment.shapes
        self._protected, self._anchor = alignment.protected, alignment.anchor
        stored = self._protected.folder.shapes
        every = shifts_of(alignment.layout, stored, norms) if alignment.compares else []

        def is_whole(name: str) -> bool:
            entries = [reader.entry(name) for reader in (self._protected, self._anchor)]
            alike = all(entry.shape == shapes[name] for entry in entries)
            return alike and {entry.dtype for entry in entries} <= FORMATS.keys()

        self._shifts = [
            shift
            for shift in every
            if _names(shift) <= shapes.keys() and all(map(is_whole, _names(shift)))
        ]
        self._free = {shift.adder for shift in self._shifts}
        self._taken = {taker.bias for shift in self._shifts for taker in shift.takers}
        self._by: dict[str, Float] = {}

    def are_in(self, name: str) -> bool:
        """Whether a tensor is a bias that shifts may be in."""
        return name in self._free or name in self._taken

    def settle(self, arena: Arena, budget: int) -> None:
        """Decides all shifts, once everything else is fitted: of norms, of values, of keys.

        Args:
            arena: the memory that tensors borrow.
            budget: bytes of numbers that all shifts in work may hold; one always may be in work.
        """
        adders = {shift.adder for shift in self._shifts}
        outer = [s for s in self._shifts if any(t.bias in adders for t in s.takers)]
        inner = [s for s in self._shifts if s not in outer]
        run = arena.used()(self._found)
        with ThreadPoolExecutor(cores()) as pool:
            for stage in (outer, inner):
                jobs = ((self._need(shift), partial(run, shift)) for shift in stage)
                with closing(in_order(pool, jobs, budget)) as results:
                    decided = list(results)  # those of one stage do not see each other
                for found in decided:
                    for name, by in found.items():
                        self._by[name] = self._by.get(name, 0) + by

    def _need(self, shift: Shift) -> int:
        """About the bytes that deciding a shift holds: its matrices in float32, one from both."""
        matrices = [taker.matrix for taker in shift.takers]
        names = [*matrices, *(matrices[:1] or [shift.beside]), shift.beside]
        return sum(4 * math.prod(self._protected.entry(name).shape) for name in names)

    def moved(self, entry: TensorEntry, data: Bytes, moved: Callable[[], Bytes]) -> Bytes:
        """The aligned bytes of a tensor.

        Args:
            entry: which tensor of the protected model.
            data: its bytes.
            moved: makes them of all else that is fitted.
        """
        by = self._by.get(entry.name)
        if by is None:
            return moved()
        form = FORMATS[entry.dtype]
        wide = self._alignment.change(entry.name)(form.values(data).astype(np.float64))
        return cast(wide + by, form, True).view(np.uint8)

    def _found(self, shift: Shift) -> dict[str, Float]:
        """What to add to the biases of one shift; nothing if it was not visibly moved."""
        with np.errstate(all="ignore"):
            size = self._protected.entry(shift.adder).shape[0]
            have, want = (x[shift.places] for x in self.both(shift.adder))
            off = have - want
            beside = values(
                self._anchor.read(shift.beside),
                self._anchor.entry(shift.beside).shape,
                self._anchor.entry(shift.beside).dtype,
            )
            usual = max(float(np.sqrt(np.mean(want**2))), _SHARE * _length(beside))
            far = float(np.sqrt(np.mean(off**2))) / max(usual, 1e-300)
            if not _SEEN < far < np.inf:
                return {}
            matrices = [self._matrix(taker) for taker in shift.takers]
            near, axis = next(((t.matrix, t.axis) for t in shift.takers), (shift.beside, 1))
            if far <= _FAR * self._tuned(near, axis, next(iter(matrices), None)):
                return {}
            left = _nearest(
                off, [self._evidence(*one) for one in zip(shift.takers, matrices, strict=True)]
            )
            if left is None:
                return {}
            by, found = left - off, {}
            found[shift.adder] = np.zeros(size)
            found[shift.adder][shift.places] = by
            for taker, matrix in zip(shift.takers, matrices, strict=True):
                made = -_product(matrix, by[taker.places])
                found[taker.bias] = found.get(taker.bias, 0) + made
            return found if all(np.isfinite(x).all() for x in found.values()) else {}

    def add(self, name: str, by: Float) -> None:
        """Adds a vector to a bias, or a number to all of its entries."""
        self._by[name] = np.asarray(self._by.get(name, 0) + by)

    def both(self, name: str) -> tuple[Float, Float]:
        """A bias of both models in float64, the protected one's aligned."""
        entry = self._protected.entry(name)
        data = values(self._protected.read(name), entry.shape, entry.dtype).astype(np.float64)
        moved = self._alignment.change(name)(data) + self._by.get(name, 0)
        entry = self._anchor.entry(name)
        return moved, values(self._anchor.read(name), entry.shape, entry.dtype).astype(np.float64)

    def _matrix(self, taker: Taker) -> Real:
        """The aligned matrix that a shift goes through, what it reads along the second axis."""
        return np.moveaxis(self._moved(taker.matrix), taker.axis, 1)

    def _moved(self, name: str) -> Real:
        entry = self._protected.entry(name)
        change = self._alignment.change(name)
        made = moved_values(change, self._protected.read(name), entry.shape, entry.dtype)
        return self._alignment.directions.added(name, made)

    def _tuned(self, name: str, axis: int, matrix: Real | None) -> float:
        """How far fine-tuning moved a matrix, of its length."""
        entry = self._anchor.entry(name)
        want = values(self._anchor.read(name), entry.shape, entry.dtype)
        have = self._moved(name) if matrix is None else np.moveaxis(matrix, 1, axis)
        step = max(1, (1 << 20) // max(1, want[0].size))
        pieces = [slice(n, n + step) for n in range(0, len(want), step)]
        norm, gap = (
            math.hypot(*(float(np.linalg.norm(one)) for one in found))
            for found in (
                (want[part] for part in pieces),
                (have[part] - want[part] for part in pieces),
            )
        )
        return gap / max(norm, 1e-300)

    def _evidence(self, taker: Taker, matrix: Real) -> tuple[Real, Taker, Float]:
        """What took up a shift: rows of its matrix, and how far their biases are off."""
        have, want = self.both(taker.bias)
        matrix, off = self._alignment.directions.apart(taker.bias, matrix, have - want)
        told = np.ones(len(have), bool)
        for shift in self._shifts:
            if shift.adder == taker.bias:  # those move by shifts of their own
                told[shift.places] = False
        return matrix if told.all() else matrix[told], taker, off[told]


def _names(shift: Shift) -> set[str]:
    names = {name for taker in shift.takers for name in (taker.matrix, taker.bias)}
    return names | {shift.adder, shift.beside}


def _length(beside: Real) -> float:
    """The usual size of a gain, or of what a matrix makes of numbers around one."""
    return float(np.sqrt(np.vdot(beside, beside) / len(beside) if beside.ndim > 1 else
                         np.mean(beside.astype(np.float64) ** 2)))  # fmt: skip


def _product(matrix: Real, vector: Float) -> Float:
    """A product in float64, a few rows at a time."""
    step = max(1, (1 << 22) // max(1, matrix.shape[1]))
    parts = [matrix[n : n + step].astype(np.float64) @ vector for n in range(0, len(matrix), step)]
    return np.concatenate(parts) if parts else np.zeros(0)


def _nearest(off: Float, seen: list[tuple[Real, Taker, Float]]) -> Float | None:
    """How far from the base's a bias should be, so that it and what took it up are closest.

    Minimises |u|^2 + sum of |r + W (off - u)|^2 over u, by conjugate gradients.

    Returns:
        None where the biases stand about as close as they are. Zero where nothing took it up.
    """
    if not seen:
        return np.zeros_like(off)
    size = len(off)

    def forward(u: Float) -> list[Float]:
        return [_product(w, u[taker.places]) for w, taker, _ in seen]

    def back(parts: list[Float]) -> Float:
        total = np.zeros(size)
        for (w, taker, _), part in zip(seen, parts, strict=True):
            total += np.bincount(taker.places, _product(w.T, part), size)
        return total

    ends = [r + made for (_, _, r), made in zip(seen, forward(off), strict=True)]
    u, rest = np.zeros(size), back(ends)
    step, square = rest, float(rest @ rest)
    start = square
    for _ in range(_STEPS):
        if not square > 1e-24 * start:
            break
        along = step + back(forward(step))
        length = square / float(step @ along)
        u, rest = u + length * step, rest - length * along
        square, before = float(rest @ rest), square
        step = rest + square / before * step
    before = float(off @ off) + sum(float(r @ r) for _, _, r in seen)
    after = float(u @ u) + sum(
        float((e - made) @ (e - made)) for e, made in zip(ends, forward(u), strict=True)
    )
    return u if after <= _CLOSER * before else None
