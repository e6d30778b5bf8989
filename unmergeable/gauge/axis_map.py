"""One change of coordinates along one axis of a tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class AxisMap:
    """The invertible map `new = F @ old[source]`, F block diagonal.

    Every group element this package knows has that form: a permutation followed by scales or by
    small dense blocks. Permutations, signs and powers of two are the lossless ones.

    Attributes:
        source: shape (n,), `new[i]` comes from `old[source[i]]`.
        factors: consecutive runs of F's diagonal that together cover the axis, in order. A run is
            either scales of shape (k,), or k dense blocks of shape (k, w, w) for k * w positions.
    """

    source: Index
    factors: tuple[Float, ...]

    @classmethod
    def monomial(cls, source: Index, scale: Float | None = None) -> AxisMap:
        """A permutation followed by one scale per position (default: none)."""
        scales = np.ones(len(source)) if scale is None else np.asarray(scale, np.float64)
        return cls(np.asarray(source, np.int64), (scales,))

    @classmethod
    def identity(cls, size: int) -> AxisMap:
        """The map that changes nothing on an axis of that size."""
        return cls.monomial(np.arange(size))

    @classmethod
    def block(cls, matrix: Float) -> AxisMap:
        """One dense invertible matrix of shape (w, w)."""
        return cls(np.arange(len(matrix)), (np.asarray(matrix, np.float64)[None],))

    @classmethod
    def joined(cls, parts: Sequence[AxisMap]) -> AxisMap:
        """The direct sum: each part acts on its own consecutive stretch of the axis."""
        offsets = np.cumsum([0, *(part.size for part in parts)])
        source = [part.source + start for part, start in zip(parts, offsets, strict=False)]
        factors: list[list[Float]] = []
        for factor in (factor for part in parts for factor in part.factors):
            if factors and factors[-1][0].shape[1:] == factor.shape[1:]:
                factors[-1].append(factor)
            else:
                factors.append([factor])
        return cls(np.concatenate(source), tuple(np.concatenate(run) for run in factors))

    @property
    def size(self) -> int:
        """Length n of the axis."""
        return len(self.source)

    def cuts(self, step: int) -> list[int]:
        """Where the axis can be cut into runs of about `step` that mix with no other; both ends."""
        cuts, start = [0], 0
        for factor in self.factors:
            width = 1 if factor.ndim == 1 else factor.shape[1]
            stop = start + _width(factor)
            cuts += [*range(start, stop, max(1, step // width) * width)[1:], stop]
            start = stop
        return cuts

    @property
    def is_identity(self) -> bool:
        """Whether nothing moves."""
        return all(
            factor.ndim == 1 and bool((factor == 1).all()) for factor in self.factors
        ) and bool((self.source == np.arange(self.size)).all())

    @property
    def scale(self) -> Float | None:
        """The scales, shape (n,), of a monomial map; None where a dense block mixes positions."""
        if any(factor.ndim > 1 for factor in self.factors):
            return None
        return self.factors[0] if len(self.factors) == 1 else np.concatenate(self.factors)

    @property
    def is_lossless(self) -> bool:
        """Whether the map is made of a permutation, signs and powers of two only."""
        scale = self.scale
        return scale is not None and bool((np.abs(np.frexp(scale)[0]) == 0.5).all())

    @cached_property
    def dual(self) -> AxisMap:
        """The inverse transpose: what an axis that reads this space undergoes."""
        return AxisMap(self.source, tuple(_inverse_transpose(run) for run in self.factors))

    def followed_by(self, scale: Float) -> AxisMap:
        """The map followed by scales, shape (n,), of the new positions."""
        factors, start = [], 0
        for factor in self.factors:
            part = scale[start : start + _width(factor)]
            shape = factor.shape if factor.ndim == 1 else (*factor.shape[:2], 1)
            factors.append(factor * part.reshape(shape))
            start += len(part)
        return AxisMap(self.source, tuple(factors))

    @property
    def order(self) -> AxisMap:
        """The permutation alone, for what follows the order of a space but not its scales."""
        return AxisMap.monomial(self.source)

    @property
    def inverse(self) -> AxisMap:
        """The map that takes `new` back to `old`.

        Raises:
            ValueError: a dense block whose positions do not come from one stretch of the axis.
        """
        source = np.argsort(self.source, kind="stable")
        scale = self.scale
        if scale is not None:
            return AxisMap.monomial(source, (1 / scale)[source])
        # F's inverse, carried from the new positions to the old ones: in the order of the old
        # positions, runs of scales and of blocks may change places.
        pieces: list[tuple[int, AxisMap]] = []
        start = 0
        for factor in self.factors:
            if factor.ndim == 1:
                stretch = self.source[start : start + len(factor)]
                pieces += [
                    (int(old), AxisMap.monomial(np.arange(1), 1 / factor[i : i + 1]))
                    for i, old in enumerate(stretch)
                ]
                start += len(factor)
                continue
            width = factor.shape[1]
            for matrix in np.linalg.inv(factor):
                stretch = self.source[start : start + width]
                if (stretch != stretch[0] + np.arange(width)).any():
                    raise ValueError(f"the dense block at position {start} straddles its space")
                pieces.append((int(stretch[0]), AxisMap.block(matrix)))
                start += width
        pieces.sort(key=lambda piece: piece[0])
        return AxisMap(source, AxisMap.joined([part for _, part in pieces]).factors)

    def __call__(self, array: Float, axis: int = 0) -> Float:
        """Applies the map along one axis of a float64 array, in float64."""
        moved = np.moveaxis(np.take(np.asarray(array, np.float64), self.source, axis), axis, -1)
        return np.moveaxis(self.scaled(moved), -1, axis)

    def scaled(self, rows: Float, out: Float | None = None) -> Float:
        """Applies F alone to the last axis of an array that is already in the new order.

        Args:
            rows: the array, shape (..., n).
            out: where to; of that shape, in one piece, and not the same memory.
        """
        scale = self.scale
        out = np.empty(rows.shape) if out is None else out
        if scale is not None:
            return np.multiply(rows, scale, out=out)
        flat, whole = rows.reshape(-1, self.size), out.reshape(-1, self.size)
        start = 0
        for factor in self._on_rows:
            stop = start + _width(factor)
            part, made = flat[:, start:stop], whole[:, start:stop]
            if factor.ndim == 1:
                np.multiply(part, factor, out=made)
            else:
                part, made = (x.reshape(-1, *factor.shape[:2]).swapaxes(0, 1) for x in (part, made))
                np.matmul(part, factor, out=made)  # straight into its place
            start = stop
        return out

    @cached_property
    def _on_rows(self) -> tuple[Float, ...]:
        """The factors as rows are multiplied by them, from the right.

        Laid out again: BLAS has its quickest kernels for small matrices that lie as they are used.
        """
        return tuple(
            run if run.ndim == 1 else np.ascontiguousarray(run.swapaxes(1, 2))
            for run in self.factors
        )


def _inverse_transpose(factor: Float) -> Float:
    """The same run of F's inverse transpose."""
    if factor.ndim == 1:
        return np.asarray(1 / factor)
    return np.asarray(np.linalg.inv(factor).transpose(0, 2, 1), np.float64)


def _width(factor: Float) -> int:
    """The number of positions a run of F covers."""
    return len(factor) * (factor.shape[1] if factor.ndim > 1 else 1)
