"""Gains of queries that moved into those of keys, brought back to the base's own split.

Nothing else depends on them, so that they are compared once everything else is fitted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from unmergeable.architectures.score_norms import Balance, Places, balances_of
from unmergeable.attacks.alignment.gains import settled
from unmergeable.attacks.alignment.pairing import Shape
from unmergeable.checkpoint.header import TensorEntry
from unmergeable.checkpoint.reader import TensorReader
from unmergeable.gauge.axis_map import Float
from unmergeable.gauge.floats import FORMATS, cast
from unmergeable.gauge.memory import Bytes
from unmergeable.gauge.parts import values

if TYPE_CHECKING:
    from unmergeable.attacks.alignment.engine import Alignment


class ScoreNorms:
    """The scales between gains of queries and of keys in all layers of a model.

    Args:
        alignment: what is fitted so far.
        protected: the protected model's tensors.
        anchor: the base's.
        shapes: of what both have, by name.
        compared: whether the method compares the two; else gains stay.
    """

    def __init__(
        self,
        alignment: Alignment,
        protected: TensorReader,
        anchor: TensorReader,
        shapes: Mapping[str, Shape],
        compared: bool = True,
    ) -> None:
        self._alignment, self._protected, self._anchor = alignment, protected, anchor
        every = balances_of(alignment.layout, protected.folder.shapes) if compared else []
        self._balances = [one for one in every if all(name in shapes for name in one.names)]
        self._by: dict[str, tuple[float, Float]] = {}

    def settle(self) -> None:
        """Decides all scales, once everything else is fitted."""
        for balance in self._balances:
            scale = self._scale(balance)
            for sides, power in ((balance.times, 1), (balance.over, -1)):
                for places in sides if (scale != 1).any() else ():
                    self._by[places.name] = places.offset, scale[places.scales] ** power

    def moved(self, entry: TensorEntry, data: Bytes, moved: Callable[[], Bytes]) -> Bytes:
        """The aligned bytes of a tensor.

        Args:
            entry: which tensor of the protected model.
            data: its bytes.
            moved: makes them of all else that is fitted.
        """
        if entry.name not in self._by or entry.dtype not in FORMATS:
            return moved()
        offset, by = self._by[entry.name]
        wide = (self._aligned(entry, data) + offset) * by.reshape(entry.shape) - offset
        return cast(wide, FORMATS[entry.dtype], True).view(np.uint8)

    def _scale(self, balance: Balance) -> Float:
        """What brings both sides closest to the base's."""

        def sums(sides: tuple[Places, ...]) -> Float:
            total = np.zeros((4, balance.size))
            for places in sides:
                have, want = self._both(places)
                for row, part in enumerate((have * want, have**2, want**2, np.ones_like(have))):
                    total[row] += np.bincount(places.scales, part, balance.size)
            return total

        times, over = sums(balance.times), sums(balance.over)
        found = settled(np.ones(balance.size), times[:3], over)
        return np.where(np.isfinite(found) & (found != 0), found, 1.0)

    def _both(self, places: Places) -> tuple[Float, Float]:
        """A tensor of both models in float64, the protected one's aligned, offsets included."""
        entry = self._protected.entry(places.name)
        have = self._aligned(entry, self._protected.read(places.name))
        entry = self._anchor.entry(places.name)
        want = values(self._anchor.read(places.name), entry.shape, entry.dtype).astype(np.float64)
        one, two = (np.nan_to_num(x, posinf=0, neginf=0).reshape(-1) for x in (have, want))
        return one + places.offset, two + places.offset

    def _aligned(self, entry: TensorEntry, data: Bytes) -> Float:
        wide = values(data, entry.shape, entry.dtype).astype(np.float64)
        return np.asarray(self._alignment.change(entry.name)(wide))
