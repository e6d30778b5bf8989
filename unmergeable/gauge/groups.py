"""The groups that a space can carry: what an architecture cannot see.

Each group draws two kinds of element. The lossless kind is made of permutations, signs and powers
of two, which every floating-point format moves without rounding. The general kind comes from the
full group. Sources: section 4 of the design (ours); the symmetries themselves are folklore, see
"Generalized Linear Mode Connectivity for Transformers" (arXiv 2506.22712) and the gauge literature.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from unmergeable.gauge.axis_map import AxisMap, Float, Index
from unmergeable.gauge.randomness import Randomness

Complex = npt.NDArray[np.complex128]


@dataclass(frozen=True)
class Kind:
    """Which element of a group to draw.

    Attributes:
        general: draw from the full group, whose elements round, not from its lossless subgroup.
        scales: let the lossless subgroup use powers of two besides permutations and signs.
    """

    general: bool = False
    scales: bool = True


class Group:
    """A group of invertible maps on a space. Subclasses say how to draw from it."""

    name: str
    sentence: str

    def draw(self, size: int, random: Randomness, kind: Kind) -> AxisMap:
        """Draws one element for a space of that size."""
        raise TypeError(f"the group {self.name!r} does not say how to draw an element")

    def bits(self, size: int, kind: Kind) -> float:
        """Entropy of one drawn element in bits; for the general kind, of its discrete part."""
        raise TypeError(f"the group {self.name!r} does not say how much it draws")


class Permutation(Group):
    """The order of the positions: neurons behind any activation, heads, LayerNorm's residual."""

    name = "permutation"
    sentence = "any order"

    def draw(self, size: int, random: Randomness, kind: Kind) -> AxisMap:
        """Draws a uniform permutation."""
        return AxisMap.monomial(random.permutation(size))

    def bits(self, size: int, kind: Kind) -> float:
        """log2(size!)."""
        return math.lgamma(size + 1) / math.log(2)


class SignedPermutation(Permutation):
    """Order and signs: the residual stream under RMSNorm with its gains kept."""

    name = "signed permutation"
    sentence = "any order, any signs"

    def draw(self, size: int, random: Randomness, kind: Kind) -> AxisMap:
        """Draws a uniform permutation and uniform signs."""
        return AxisMap.monomial(random.permutation(size), random.signs(size))

    def bits(self, size: int, kind: Kind) -> float:
        """log2(size! * 2**size)."""
        return super().bits(size, kind) + size


class ScaledPermutation(SignedPermutation):
    """Order and any non-zero scales: the neurons of a gated FFN, on its up and down pair."""

    name = "scaled permutation"
    sentence = "any order, any non-zero scales"

    def draw(self, size: int, random: Randomness, kind: Kind) -> AxisMap:
        """Draws order, signs, and scales in {1/2, 1, 2}, or in [1/2, 2] for the general kind."""
        source, signs = random.permutation(size), random.signs(size)
        return AxisMap.monomial(source, signs * _magnitudes(size, random, kind))

    def bits(self, size: int, kind: Kind) -> float:
        """log2(size! * 2**size * 3**size)."""
        return super().bits(size, kind) + _magnitude_bits(size, kind)


class PositiveScaledPermutation(Permutation):
    """Order and positive scales: the neurons behind a ReLU, which lets such scales through."""

    name = "positive scaled permutation"
    sentence = "any order, any positive scales"

    def draw(self, size: int, random: Randomness, kind: Kind) -> AxisMap:
        """Draws order, and scales in {1/2, 1, 2}, or in [1/2, 2] for the general kind."""
        source = random.permutation(size)
        return AxisMap.monomial(source, _magnitudes(size, random, kind))

    def bits(self, size: int, kind: Kind) -> float:
        """log2(size! * 3**size)."""
        return super().bits(size, kind) + _magnitude_bits(size, kind)


class Linear(ScaledPermutation):
    """GL(n): what one head's values may undergo, and its queries and keys without rotary."""

    name = "linear"
    sentence = "any invertible matrix"

    def draw(self, size: int, random: Randomness, kind: Kind) -> AxisMap:
        """Draws a scaled permutation, or an orthogonal matrix times a diagonal in [1/2, 2].

        The diagonal's range bounds the condition number by 4, which keeps rounding in bfloat16 near
        that of the open model; a rotation alone already moves the weights by sqrt(2) of their norm.
        """
        if not kind.general:
            return super().draw(size, random, kind)
        return AxisMap.block(random.orthogonal(size) * _magnitudes(size, random, kind))

    def bits(self, size: int, kind: Kind) -> float:
        """As a scaled permutation; 0 for the general kind, whose elements are continuous."""
        return 0.0 if kind.general else super().bits(size, kind)


class Rotary(Group):
    """One complex number per rotary plane: what commutes with every rotation by position.

    Args:
        name: as written in the data files.
        interleaved: planes (2i, 2i + 1) as in GPT-J, else (i, i + n/2) as in Llama on the Hub.
        axial: planes of the second kind inside each half, for rows and for columns of an image.
    """

    sentence = "one complex number per rotary plane"

    def __init__(self, name: str, *, interleaved: bool, axial: bool = False) -> None:
        self.name = name
        self.interleaved, self.axial = interleaved, axial

    def planes(self, size: int) -> tuple[Index, Index]:
        """Positions of the real and the imaginary parts, each of shape (size / 2,)."""
        if size % 2:
            raise ValueError(f"a rotary space has planes of two, but its size is {size}")
        positions = np.arange(size)
        if self.axial:
            if size % 4:
                raise ValueError(f"a space of rows and columns has planes of four, not {size}")
            halves = positions.reshape(2, 2, -1)
            return halves[:, 0].reshape(-1), halves[:, 1].reshape(-1)
        return (
            (positions[0::2], positions[1::2])
            if self.interleaved
            else (positions[: size // 2], positions[size // 2 :])
        )

    def nearest(self, numbers: Complex) -> Complex:
        """The numbers that the group has nearest to these, one per plane."""
        return numbers

    def element(self, size: int, numbers: Complex) -> AxisMap:
        """The map that multiplies plane by plane.

        Args:
            size: of the space.
            numbers: one complex number per plane, shape (size / 2,), or numbers near those of the
                group. If each lies on an axis of the complex plane, the map is monomial, else a
                dense block.
        """
        real, imaginary = self.planes(size)
        numbers = self.nearest(numbers)
        a, b = numbers.real, numbers.imag
        if (np.minimum(np.abs(a), np.abs(b)) > 1e-9 * np.abs(numbers)).any():
            matrix = np.zeros((size, size))
            matrix[real, real], matrix[real, imaginary] = a, -b
            matrix[imaginary, real], matrix[imaginary, imaginary] = b, a
            return AxisMap.block(matrix)
        # A multiple of i swaps the two parts: i * (x + iy) = -y + ix.
        swapped = np.abs(b) > np.abs(a)
        source, scale = np.empty(size, np.int64), np.empty(size)
        source[real] = np.where(swapped, imaginary, real)
        source[imaginary] = np.where(swapped, real, imaginary)
        scale[real] = np.where(swapped, -b, a)
        scale[imaginary] = np.where(swapped, b, a)
        return AxisMap.monomial(source, scale)

    def draw(self, size: int, random: Randomness, kind: Kind) -> AxisMap:
        """Draws i**k times a power of two per plane, or a complex number of modulus in [1/2, 2]."""
        half = size // 2
        if kind.general:
            angle = 2 * np.pi * random.uniform(half)
            return self.element(size, _magnitudes(half, random, kind) * np.exp(1j * angle))
        turns = np.array([1, 1j, -1, -1j])[random.below(4, half)]
        return self.element(size, _magnitudes(half, random, kind) * turns)

    def bits(self, size: int, kind: Kind) -> float:
        """log2((4 * 3)**(size / 2)); 0 for the general kind, whose elements are continuous."""
        return 0.0 if kind.general else 2.0 * (size // 2) + _magnitude_bits(size // 2, kind)


class RotaryTurns(Rotary):
    """Rotary planes that may turn, but not stretch: what a norm or a clamp lets through.

    A root mean square without gains does not see how a plane is turned. Quarter turns (i**k) take
    positions to positions, up to signs: they pass where the norm's gains follow, or through a clamp
    to [-c, c]. Signs, which are half turns, leave every position in its place: they pass where the
    gains are shared by heads and so cannot follow one of them.

    Args:
        name: as written in the data files.
        interleaved, axial: as in `Rotary`.
        parts: 2 or 4, the equal parts of a circle that a plane may turn by; None for any angle.
    """

    def __init__(
        self, name: str, *, interleaved: bool, parts: int | None, axial: bool = False
    ) -> None:
        super().__init__(name, interleaved=interleaved, axial=axial)
        self.parts = parts
        turn = {None: "turn", 4: "quarter turn", 2: "sign"}[parts]
        self.sentence = f"one {turn} per rotary plane"

    def nearest(self, numbers: Complex) -> Complex:
        """The numbers of modulus one, and of the parts of a circle, that are nearest to these."""
        if self.parts is None:
            return np.asarray(numbers / np.where(numbers == 0, 1, np.abs(numbers)))
        return self._turned(np.round(np.angle(numbers) * self.parts / (2 * np.pi)).astype(np.int64))

    def draw(self, size: int, random: Randomness, kind: Kind) -> AxisMap:
        """Draws a turn per plane: of any angle for the general kind, if the group has them."""
        half = size // 2
        if self.parts is None and kind.general:
            return self.element(size, np.exp(2j * np.pi * random.uniform(half)))
        return self.element(size, self._turned(random.below(self.parts or 4, half)))

    def bits(self, size: int, kind: Kind) -> float:
        """log2(parts**(size / 2)), with four parts for any angle; 0 where they are continuous."""
        if self.parts is None and kind.general:
            return 0.0
        return math.log2(self.parts or 4) * (size // 2)

    def _turned(self, parts: Index) -> Complex:
        return np.array([1, 1j, -1, -1j])[parts * (4 // (self.parts or 4)) % 4]


def _magnitudes(size: int, random: Randomness, kind: Kind) -> Float:
    """Scales within a factor of two of one: real, a power of two, or all one."""
    if kind.general:
        return np.exp2(2 * random.uniform(size) - 1)
    return np.ldexp(np.ones(size), random.below(3, size) - 1) if kind.scales else np.ones(size)


def _magnitude_bits(size: int, kind: Kind) -> float:
    return size * math.log2(3) if kind.scales and not kind.general else 0.0


GROUPS: dict[str, Group] = {
    group.name: group
    for group in (
        Permutation(),
        SignedPermutation(),
        ScaledPermutation(),
        PositiveScaledPermutation(),
        Linear(),
        Rotary("rotary half", interleaved=False),
        Rotary("rotary interleaved", interleaved=True),
        RotaryTurns("rotary interleaved turns", interleaved=True, parts=None),
        RotaryTurns("rotary half quarter turns", interleaved=False, parts=4),
        RotaryTurns("rotary half signs", interleaved=False, parts=2),
        RotaryTurns("rotary axial signs", interleaved=False, parts=2, axial=True),
    )
}
