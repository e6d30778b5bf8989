"""Integers and reals drawn from a key's byte stream, by arithmetic that never changes.

A key must unlock for ever. So nothing here comes from numpy's or torch's generators, whose streams
their authors may change: 64-bit words are read little-endian from the bytes, and everything else is
integer arithmetic on them. The tests hold fixed vectors. (Ours.)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]


class Randomness:
    """A sequence of draws, determined by its bytes.

    Args:
        take: returns the next n bytes of a stream that is uniform to anyone without the key.
    """

    def __init__(self, take: Callable[[int], bytes]) -> None:
        self._take = take

    def words(self, count: int) -> Words:
        """The next `count` uniform 64-bit integers."""
        return np.frombuffer(self._take(8 * count), dtype="<u8").astype(np.uint64)

    def below(self, bound: int, count: int) -> Index:
        """`count` integers uniform in [0, bound), without modulo bias, 0 < bound <= 2**32."""
        limit = (1 << 64) // bound * bound - 1
        words = self.words(count)
        while (rejected := words > np.uint64(limit)).any():
            words[rejected] = self.words(int(rejected.sum()))
        return (words % np.uint64(bound)).astype(np.int64)

    def permutation(self, size: int) -> Index:
        """A uniform permutation: the order that sorts `size` distinct random words."""
        words = self.words(size)
        while len(np.unique(words)) < size:  # a tie would favour the identity
            words = self.words(size)
        return np.argsort(words, kind="stable").astype(np.int64)

    def signs(self, size: int) -> Float:
        """`size` values of -1.0 or 1.0."""
        return np.where(self.below(2, size) == 1, -1.0, 1.0)

    def uniform(self, size: int) -> Float:
        """`size` reals uniform in (0, 1), multiples of 2**-53 plus 2**-54."""
        unit: Float = (self.words(size) >> np.uint64(11)).astype(np.float64)
        return (unit + 0.5) * 2.0**-53

    def normal(self, size: int) -> Float:
        """`size` standard normal reals (Box and Muller); equal up to the last bits everywhere."""
        half = (size + 1) // 2
        radius = np.sqrt(-2 * np.log(self.uniform(half)))
        angle = 2 * np.pi * self.uniform(half)
        both: Float = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
        return both[:size]

    def orthogonal(self, size: int) -> Float:
        """A Haar-distributed orthogonal matrix, (size, size), up to the last bits.

        QR of a Gaussian with the signs of R's diagonal moved into Q, which makes the result both
        Haar (Mezzadri 2007) and a continuous function of the draws, so that another LAPACK gives
        the same matrix up to rounding.
        """
        q, r = np.linalg.qr(self.normal(size * size).reshape(size, size))
        return np.asarray(q * np.sign(np.diag(r)), np.float64)
