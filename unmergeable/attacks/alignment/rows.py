"""Norms of queries, keys and blocks: what they normalise, and what moved between their gains.

Signs that rows share with gains are put into the rows of both models while anything else is fitted.
How long rows are is guessed before that where it would be in the way; once a layer is fitted, its
rows tell it, and in the end the gains what moved between those of queries and of keys.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from unmergeable.architectures.normed import Places, Rows
from unmergeable.architectures.score_norms import Balance, balances_of, rows_of
from unmergeable.attacks.alignment.gains import LENIENT, near_powers, settled, share
from unmergeable.attacks.alignment.streams import before_order, size_of
from unmergeable.checkpoint.header import TensorEntry
from unmergeable.checkpoint.reader import TensorReader
from unmergeable.gauge.axis_blocks import Block
from unmergeable.gauge.axis_map import AxisMap, Float
from unmergeable.gauge.fit import BELIEF, ROUNDING, Sums, power_of_two
from unmergeable.gauge.floats import FORMATS, cast
from unmergeable.gauge.groups import Linear
from unmergeable.gauge.memory import Bytes
from unmergeable.gauge.notation import Atom, Spaces
from unmergeable.gauge.parts import Real, values
from unmergeable.gauge.stack_map import StackMap
from unmergeable.gauge.tensor_map import TensorMap
from unmergeable.gauge.wild import has_scales

if TYPE_CHECKING:
    from unmergeable.attacks.alignment.engine import Alignment

# Rows that point the other way as clearly as this had their sign changed.
_AGAINST = -0.5
# Rows whose sign no gain tells for certain count at least this much.
_LEAST = 1e-3
# Fewer numbers than these are few.
_FEW = 32
# A guessed length is a power of two, or one, if it is this near to it, in octaves.
_NEAR = 0.05


@dataclass(eq=False)
class _Known:
    """What is known of the rows in front of some norms.

    Attributes:
        stored: the sign of each row's gain in the protected model, as stored.
        wanted: the base's.
        trust: how much each row counts in a fit: signs of gains that are next to nothing tell none.
        length: what the rows of each norm are multiplied by.
        flips: one, or minus one where the rows say what the gains do not, for each sign.
    """

    stored: Float
    wanted: Float
    trust: Float
    length: Float
    flips: Float


class NormedRows:
    """The rows in front of the norms of a model, and the gains behind them.

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
        self._balanced = {name for balance in self._balances for name in balance.names}
        found = rows_of(layout, stored) if alignment.compares else []
        self._rows = {rows.matrix.name: rows for rows in found if are_whole(rows.names)}
        self._known = {name: self._start(rows) for name, rows in self._rows.items()}
        self._of = {
            places.name: name
            for name, rows in self._rows.items()
            for places in (rows.matrix, *rows.others)
        }
        self._gains = {places.name for rows in self._rows.values() for places in rows.gains}
        self._by: dict[str, tuple[float, Float]] = {}

    def are_in(self, name: str) -> bool:
        """Whether a tensor has rows of any length and sign."""
        return name in self._of

    def are_gains(self, name: str) -> bool:
        """Whether a tensor has gains of queries or keys, which scales move between."""
        return name in self._gains or name in self._balanced

    def hide(self, name: str) -> bool:
        """Whether a tensor says little yet: gains with signs, rows of more than one length."""
        if name not in self._of:
            return name in self._gains
        rows = self._rows[self._of[name]]
        return name != rows.matrix.name or not rows.centred or rows.norms != 1 or rows.flips != 1

    def tell_signs(self, name: str, space: str) -> bool:
        """Whether no gain shares the signs of a space with a tensor."""
        if name in self._gains or name not in self._of:
            return name not in self._gains
        rows = self._rows[self._of[name]]
        axis = rows.axis if name == rows.matrix.name else 0
        on = self._alignment.layout.placements[name].rule.axes[axis].names()
        return not rows.flips or space not in on

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
        axis = rows.axis if name == rows.matrix.name else 0
        by = known.wanted * known.flips[rows.signs] * known.length[rows.matrix.scales]
        if not self.have_signs(name) and (by == 1).all():
            return change
        assert isinstance(change, TensorMap)
        axes = list(change.axes)
        old = (axes[axis] if axes else None) or AxisMap.identity(len(by))
        # Norms let places, signs and quarter turns through, so that stored signs change places.
        axes[axis] = old.followed_by(known.stored[old.source] * by)
        return TensorMap.of(axes)

    def folded(self, name: str, one: Real, two: Real) -> tuple[Real, Real]:
        """A tensor of both models as a fit may compare it: as if all gains were positive."""
        if not self.have_signs(name):
            return one, two
        rows, known = self._rows[self._of[name]], self._known[self._of[name]]
        axis = rows.axis if name == rows.matrix.name else 0
        by = (known.wanted * known.trust).astype(one.dtype)
        by = np.expand_dims(by, [n for n in range(one.ndim) if n != axis])
        return one * by, two * by

    def guess(self, name: str, pairs: Mapping[str, Sequence[tuple[Block, Block]]]) -> bool:
        """Guesses the length of rows that read a space of their layer, before that is fitted.

        The space's element moves size between the rows and what writes into the space. What none
        of its elements changes tells the length: products of the two.

        Args:
            name: of a matrix.
            pairs: the blocks of a layer's tensors in both models.

        Returns:
            Whether the length is another one than was taken.
        """
        spaces, known = self._alignment.layout.spaces, self._known[name]
        others = [pair for other, found in pairs.items() if other != name for pair in found]
        one, two = (
            np.concatenate(
                [_products(spaces, pair[n], [other[n] for other in others]) for pair in pairs[name]]
            )
            for n in (0, 1)
        )
        told = np.isfinite(one) & np.isfinite(two) & (one > 0)
        if not told.any():
            return False
        before = float(known.length[0])
        length = before * float(np.median(two[told]) / np.median(one[told]))
        whole = 2.0 ** round(math.log2(length))
        known.length[0] = whole if abs(math.log2(length / whole)) <= _NEAR else length
        return bool(known.length[0] != before)

    def turn(self, name: str, axis: int, one: Real, two: Real) -> None:
        """Guesses the one sign and length of rows, before one axis of their matrix is fitted.

        Args:
            name: of a matrix.
            axis: the number of that axis.
            one: the protected model's, with its other axes fitted.
            two: the base's.
        """
        known = self._known[name]
        alike, told = before_order(one, two, axis)
        if not self._rows[name].flips:  # else the gains tell the sign; this may be the stream's
            known.flips[0] *= -1 if alike < 0 else 1
        known.length[0] *= size_of(told)

    def turn_to(self, name: str, one: Real, two: Real) -> None:
        """Guesses the one sign and length of rows by products that hold nothing else.

        Args:
            name: of a matrix.
            one: the protected model's.
            two: the base's.
        """
        known = self._known[name]
        inner, moved, anchor = (
            float(np.vdot(a, b)) for a, b in ((one, two), (one, one), (two, two))
        )
        known.flips[0] *= -1 if inner < 0 else 1
        if 0 < moved < math.inf and 0 < anchor < math.inf:
            length = float(known.length[0]) * math.sqrt(anchor / moved)
            whole = 2.0 ** round(math.log2(length))
            known.length[0] = whole if abs(math.log2(length / whole)) <= _NEAR else length

    def look(self, name: str, one: Real, two: Real) -> None:
        """Decides signs and lengths of rows.

        Args:
            name: of a matrix.
            one: the protected model's, with all of its axes fitted.
            two: the base's.
        """
        rows, known = self._rows[name], self._known[name]
        one, two = (
            np.moveaxis(x, rows.axis, 0).reshape(x.shape[rows.axis], -1) for x in (one, two)
        )
        inner, moved, anchor = (
            np.asarray(np.einsum("ij,ij->i", a, b), np.float64)
            for a, b in ((one, two), (one, one), (two, two))
        )
        # Rows of all norms count as if they were as long as the base's.
        sizes = [np.bincount(rows.matrix.scales, part) for part in (moved, anchor)]
        even = np.sqrt(sizes[1] / np.maximum(sizes[0], 1e-300))[rows.matrix.scales]
        weighed = (inner * even, moved * even**2, anchor)
        along, have, want = (np.bincount(rows.signs, part) for part in weighed)
        alike = along / np.sqrt(np.maximum(have * want, 1e-300))
        flips = np.where(alike < _AGAINST, -1.0, 1.0)
        flips[rows.flips :] = 1.0
        parts = (inner * flips[rows.signs], moved, anchor)
        sums = Sums(*(np.bincount(rows.matrix.scales, part).astype(float) for part in parts))
        known.flips = known.flips * flips
        known.length = known.length * _longer(sums, known.length, one.size / len(known.length))
        known.length[rows.norms :] = 1.0

    def settle(self) -> None:
        """Decides what moved between gains, once everything else is fitted."""
        for name, rows in self._rows.items():
            known = self._known[name]
            both = [self._both(places) for places in rows.gains]
            sign = known.flips.copy()
            if both:
                one, two = (_signs(_first(rows, [pair[n] for pair in both])) for n in (0, 1))
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
            _first(rows, [self._gain(reader, places) for places in rows.gains])
            for reader in (self._protected, self._anchor)
        )
        trust = np.clip(share(wanted), _LEAST, 1)[rows.signs]
        stored, wanted = (_signs(gains)[rows.signs] for gains in (stored, wanted))
        norms, flips = (1 + int(numbers.max()) for numbers in (rows.matrix.scales, rows.signs))
        return _Known(stored, wanted, trust, np.ones(norms), np.ones(flips))

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
        return self._alignment.streams.aligned(entry.name, self._alignment.change(entry.name), wide)


def _first(rows: Rows, gains: list[Float]) -> Float:
    """The first of the gains that have each sign, their sum where norms centre; one if it has none.

    A norm that centres has one sign for all of its gains, which stand in any order as yet.
    """
    found = np.ones(1 + int(rows.signs.max()))
    for places, gain in zip(rows.gains, gains, strict=True):
        numbers, first = np.unique(places.scales, return_index=True)
        sums = np.bincount(places.scales, gain)
        found[numbers] = sums[numbers] if rows.centred else gain[first]
    return found


def _signs(gains: Float) -> Float:
    return np.where(gains < 0, -1.0, 1.0)


def _longer(sums: Sums, before: Float, count: float) -> Float:
    """What brings rows to the base's length: one if that explains them, or a power of two, or any.

    Args:
        sums: of the rows of each norm, as long as they are taken to be.
        before: what they are multiplied by already.
        count: of numbers that a norm stands on; few may be near to the base by chance.
    """
    told = (sums.inner > 0) & (sums.moved > 0)
    free = np.where(told, sums.inner, 1) / np.where(told, sums.moved, 1)
    belief = LENIENT if count < _FEW and near_powers(free * before) else BELIEF
    limit = belief * np.maximum(sums.errors(free), 0) + 2 * ROUNDING * sums.anchor
    found = free
    for simple in (power_of_two(free * before) / before, 1 / before):
        found = np.where(sums.errors(simple) <= limit, simple, found)
    return np.asarray(found)


def _products(spaces: Spaces, block: Block, others: Sequence[Block]) -> Float:
    """How large rows are together with what writes into the space that they read.

    Args:
        spaces: of the model.
        block: of the rows.
        others: all of the same layer.

    Returns:
        what no element of the space changes: a number for each of its positions, or for each of its
        instances if it is dense, in any order; none if the rows read no space of their layer.
    """
    read = [atom.name for atom in block.atoms if atom.side == "read" and spaces[atom.name].per]
    if len(read) != 1:
        return np.zeros(0)
    (leaf,) = read
    outer = [name for name in block.names() if spaces[name].per and name != leaf]
    group, rows = spaces[leaf].group, block.rows(*outer, leaf)
    if not isinstance(group, Linear) and not has_scales(group):
        return np.sqrt(_square(rows)).reshape(-1)
    total: Float | float = 0.0
    for other in others:
        if Atom(leaf) in other.atoms and len(other.atoms) > 1:
            shared = [name for name in outer if name in other.names()]
            writes = other.rows(*shared, leaf)
            if writes.shape[-1] > 1:  # biases outweigh their matrices
                missing = [n for n, name in enumerate(outer) if name not in shared]
                writes = np.expand_dims(writes, missing)
                if isinstance(group, Linear):
                    total = total + (_gram(rows) * _gram(writes)).sum((-2, -1))
                else:
                    total = total + _square(rows) * _square(writes)
    return np.sqrt(np.asarray(total, np.float64)).reshape(-1)


def _square(rows: Float) -> Float:
    return np.asarray(np.einsum("...ij,...ij->...i", rows, rows), np.float64)


def _gram(rows: Float) -> Float:
    return np.asarray(rows @ np.swapaxes(rows, -1, -2), np.float64)
