"""Norms of queries and keys: what moved between them and what they normalise, brought back.

Signs that rows share with gains are put into the rows of both models while anything else is fitted.
Once a layer is, its rows tell how long they were, and in the end the gains what moved between them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from unmergeable.architectures.score_norms import Balance, Places, Rows, balances_of, rows_of
from unmergeable.attacks.alignment.gains import settled
from unmergeable.checkpoint.header import TensorEntry
from unmergeable.checkpoint.reader import TensorReader
from unmergeable.gauge.axis_map import AxisMap, Float
from unmergeable.gauge.fit import BELIEF, ROUNDING, Sums, power_of_two
from unmergeable.gauge.floats import FORMATS, cast
from unmergeable.gauge.memory import Bytes
from unmergeable.gauge.parts import Real, values
from unmergeable.gauge.stack_map import StackMap
from unmergeable.gauge.tensor_map import TensorMap

if TYPE_CHECKING:
    from unmergeable.attacks.alignment.engine import Alignment

# Rows that point the other way as clearly as this had their sign changed.
_AGAINST = -0.5


@dataclass(eq=False)
class _Known:
    """What is known of the rows in front of some norms.

    Attributes:
        stored: the sign of each row's gain in the protected model, as stored.
        wanted: the base's.
        length: what the rows of each norm are multiplied by.
        flips: one, or minus one where the rows say what the gains do not, for each sign.
    """

    stored: Float
    wanted: Float
    length: Float
    flips: Float


class ScoreNorms:
    """The norms of queries and keys in all layers of a model.

    Args:
        alignment: both models, and what is fitted so far. All stays if its method compares nothing.
    """

    def __init__(self, alignment: Alignment) -> None:
        self._alignment, shapes = alignment, alignment.shapes
        self._protected, self._anchor = alignment.protected, alignment.anchor
        layout, stored = alignment.layout, self._protected.folder.shapes

        def are_whole(names: list[str]) -> bool:
            return all(
                name in shapes and reader.entry(name).shape == shapes[name]
                for name in names
                for reader in (self._protected, self._anchor)
            )

        balances = balances_of(layout, stored) if alignment.compares else []
        self._balances = [balance for balance in balances if are_whole(balance.names)]
        found = rows_of(layout, stored) if alignment.compares else []
        self._rows = {rows.matrix.name: rows for rows in found if are_whole(rows.names)}
        self._known = {name: self._start(rows) for name, rows in self._rows.items()}
        self._of = {
            places.name: name
            for name, rows in self._rows.items()
            for places in (rows.matrix, *rows.others)
        }
        self._by: dict[str, tuple[float, Float]] = {}

    def are_in(self, name: str) -> bool:
        """Whether a tensor has rows of any length and sign."""
        return name in self._of

    def read_by(self, name: str) -> bool:
        """Whether a tensor is the matrix in front of such norms."""
        return name in self._rows

    def have_signs(self, name: str) -> bool:
        """Whether a tensor is compared with other signs than it is stored with."""
        if name not in self._of:
            return False
        known = self._known[self._of[name]]
        return bool((known.stored < 0).any() or (known.wanted < 0).any())

    def change(self, name: str, change: TensorMap | StackMap) -> TensorMap | StackMap:
        """The map of a tensor of the protected model with what is known of its rows."""
        if name not in self._of:
            return change
        rows, known = self._rows[self._of[name]], self._known[self._of[name]]
        by = known.wanted * known.flips[rows.signs] * known.length[rows.matrix.scales]
        if not self.have_signs(name) and (by == 1).all():
            return change
        assert isinstance(change, TensorMap)
        axes = list(change.axes)
        old = axes[0] or AxisMap.identity(len(by))
        assert old.scale is not None  # norms let places, signs and quarter turns through
        axes[0] = AxisMap.monomial(old.source, old.scale * known.stored[old.source] * by)
        return TensorMap.of(axes)

    def folded(self, name: str, one: Real, two: Real) -> tuple[Real, Real]:
        """A tensor of both models as a fit may compare it: as if all gains were positive."""
        if not self.have_signs(name):
            return one, two
        sign = self._known[self._of[name]].wanted.astype(one.dtype)
        sign = sign.reshape(-1, *[1] * (one.ndim - 1))
        return one * sign, two * sign

    def look(self, name: str, one: Real, two: Real) -> None:
        """Decides signs and lengths of rows.

        Args:
            name: of a matrix.
            one: the protected model's, with all of its axes fitted.
            two: the base's.
        """
        rows, known = self._rows[name], self._known[name]
        inner, moved, anchor = (
            np.asarray(np.einsum("ij,ij->i", a, b), np.float64)
            for a, b in ((one, two), (one, one), (two, two))
        )
        along, have, want = (np.bincount(rows.signs, part) for part in (inner, moved, anchor))
        alike = along / np.sqrt(np.maximum(have * want, 1e-300))
        flips = np.where(alike < _AGAINST, -1.0, 1.0)
        parts = (inner * flips[rows.signs], moved, anchor)
        sums = Sums(*(np.bincount(rows.matrix.scales, part).astype(float) for part in parts))
        known.flips = known.flips * flips
        known.length = known.length * _longer(sums, known.length)

    def settle(self) -> None:
        """Decides what moved between gains, once everything else is fitted."""
        for name, rows in self._rows.items():
            known = self._known[name]
            both = [self._both(places) for places in rows.gains]
            sign = known.flips
            if not rows.centred:
                one, two = (_signs(rows, [pair[n] for pair in both]) for n in (0, 1))
                sign = sign * one * two
            for places in rows.gains if (sign != 1).any() else ():
                self._by[places.name] = places.offset, sign[places.scales]
        for balance in self._balances:
            scale = self._scale(balance)
            for sides, power in ((balance.times, 1), (balance.over, -1)):
                for places in sides if (scale != 1).any() else ():
                    _, by = self._by.get(places.name, (0.0, 1.0))
                    self._by[places.name] = places.offset, by * scale[places.scales] ** power

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
        return cast(wide, FORMATS[entry.dtype], True).reshape(-1).view(np.uint8)

    def _start(self, rows: Rows) -> _Known:
        """What gains tell at first: their signs, where each position may have its own."""
        stored, wanted = (
            _signs(rows, [self._gain(reader, places) for places in rows.gains])[rows.signs]
            for reader in (self._protected, self._anchor)
        )
        count = 1 + int(rows.signs.max())
        return _Known(stored, wanted, np.ones(rows.norms), np.ones(count))

    def _scale(self, balance: Balance) -> Float:
        """What brings both sides closest to the base's."""

        def sums(sides: tuple[Places, ...]) -> Float:
            total = np.zeros((4, balance.size))
            for places in sides:
                have, want = self._both(places)
                _, by = self._by.get(places.name, (0.0, 1.0))
                have = have * by
                for row, part in enumerate((have * want, have**2, want**2, np.ones_like(have))):
                    total[row] += np.bincount(places.scales, part, balance.size)
            return total

        times, over = sums(balance.times), sums(balance.over)
        found = settled(np.ones(balance.size), times[:3], over, few=True)
        return np.where(np.isfinite(found) & (found != 0), found, 1.0)

    def _both(self, places: Places) -> tuple[Float, Float]:
        """A gain or bias of both models, the protected one's aligned."""
        entry = self._protected.entry(places.name)
        have = self._aligned(entry, self._protected.read(places.name)).reshape(-1)
        return np.nan_to_num(have, posinf=0, neginf=0) + places.offset, self._gain(
            self._anchor, places
        )

    def _gain(self, reader: TensorReader, places: Places) -> Float:
        """A gain or bias as stored, with what a model adds to it."""
        entry = reader.entry(places.name)
        wide = values(reader.read(places.name), (-1,), entry.dtype).astype(np.float64)
        return np.nan_to_num(wide, posinf=0, neginf=0) + places.offset

    def _aligned(self, entry: TensorEntry, data: Bytes) -> Float:
        wide = values(data, entry.shape, entry.dtype).astype(np.float64)
        return np.asarray(self._alignment.change(entry.name)(wide))


def _signs(rows: Rows, gains: list[Float]) -> Float:
    """Each sign that rows share with their gains, by the first of those; one if norms centre."""
    sign = np.ones(1 + int(rows.signs.max()))
    for places, gain in zip(rows.gains, gains, strict=True) if not rows.centred else ():
        numbers, first = np.unique(places.scales, return_index=True)
        sign[numbers] = np.where(gain[first] < 0, -1.0, 1.0)
    return sign


def _longer(sums: Sums, before: Float) -> Float:
    """What brings rows to the base's length: one if that explains them, or a power of two, or any.

    Args:
        sums: of the rows of each norm, as long as they are taken to be.
        before: what they are multiplied by already.
    """
    told = (sums.inner > 0) & (sums.moved > 0)
    free = np.where(told, sums.inner, 1) / np.where(told, sums.moved, 1)
    limit = BELIEF * np.maximum(sums.errors(free), 0) + 2 * ROUNDING * sums.anchor
    found = free
    for simple in (power_of_two(free * before) / before, 1 / before):
        found = np.where(sums.errors(simple) <= limit, simple, found)
    return np.asarray(found)
