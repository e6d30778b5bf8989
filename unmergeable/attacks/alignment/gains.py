"""Gains of norms that moved into the matrices that read them, and back.

A norm's gain times c and its readers' columns over c compute what they did before, for any c. So
gains are compared behind their readers as long as nothing is known of c; then a first guess comes
from the two gains, and once a layer's spaces are fitted, the columns say more: c is what brings the
gain and all that reads it closest to the base's. That is the base's own split, as near as the
fine-tuning lets it be seen. Powers of two and signs are taken where they explain the numbers.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from unmergeable.architectures.norms import Norm, Touch, norms_of
from unmergeable.checkpoint.header import TensorEntry
from unmergeable.gauge.axis_map import AxisMap, Float
from unmergeable.gauge.fit import BELIEF, ROUNDING, balance, power_of_two
from unmergeable.gauge.floats import FORMATS, cast
from unmergeable.gauge.memory import Bytes
from unmergeable.gauge.parts import Real, values
from unmergeable.gauge.stack_map import StackMap
from unmergeable.gauge.tensor_map import TensorMap

if TYPE_CHECKING:
    from unmergeable.attacks.alignment.engine import Alignment

# Powers of two explain the gains alone if these are no further from them on the median, in octaves.
_OCTAVE = 0.05
# A row that fine-tuning made so many times as long as it was is one that no input reaches.
LONGER = 8.0
# Gains below this share of the usual one tell little of their scales.
_SMALL = 0.25
# Where most gains did not move, small ones that are no more octaves off did not, either.
_MOST, _FAR = 0.5, 5.0
# Columns that tell how long a row is.
_COLUMNS = 64
# Columns tell a scale if they point the same way; unrelated ones do not.
_ALIKE = 0.7
# Fewer numbers of a column look alike, or unlike, by chance if they are small.
_FEW = 8
# Where powers of two explain a norm, a position is believed to have one until it is this far off.
LENIENT = 16.0
# A layer is fitted again where more of its readers than this changed their scales.
_NOTABLE = 0.005


@dataclass(eq=False)
class _Known:
    """What is known of one norm.

    Attributes:
        scale: c, for each position of the output in the base's order; None before its spaces are.
        gain: the moved model's gain in the base's order, and the base's, offsets included, each of
            shape (n, taps).
        sums: over the readers' columns as scaled so far: their products with the base's, their
            squares and the base's, and how many they are, shape (4, n).
        trust: how much columns count in a fit while their scales are guessed, up to one.
    """

    gain: tuple[Float, Float] | None = None
    scale: Float | None = None
    sums: Float | None = None
    trust: Float | None = None


class Gains:
    """The scales of all norms of a model whose gains are free.

    Args:
        alignment: both models, and what is fitted so far. Gains stay if its method compares
            nothing.
    """

    def __init__(self, alignment: Alignment) -> None:
        self._alignment, self._layout = alignment, alignment.layout
        self._protected, self._anchor = alignment.protected, alignment.anchor
        every = norms_of(self._layout, self._protected.folder.shapes) if alignment.compares else []
        self.norms = [norm for norm in every if norm.gain in alignment.shapes]
        self._known = {norm.gain: _Known() for norm in self.norms}
        self._guard = threading.Lock()
        self._touching: dict[str, list[tuple[Norm, Touch, int]]] = defaultdict(list)
        for norm in self.norms:
            for touches, power in ((norm.adders, 1), (norm.readers, -1)):
                for touch in touches:
                    self._touching[touch.name].append((norm, touch, power))
        self._gain = {norm.gain: norm for norm in self.norms}

    def are_in(self, name: str) -> bool:
        """Whether a tensor is a gain, or a bias behind one."""
        return name in self._gain or any(power > 0 for _, _, power in self._touching.get(name, ()))

    def read_by(self, name: str) -> bool:
        """Whether a tensor reads a norm whose gain is free."""
        return any(power < 0 for _, _, power in self._touching.get(name, ()))

    def axes_of(self, name: str) -> set[int]:
        """The axes of a reader along which it meets norms."""
        return {touch.axis for _, touch, power in self._touching.get(name, ()) if power < 0}

    def open_in(self, name: str) -> bool:
        """Whether a tensor reads a norm whose spaces are not fitted yet."""
        settled = self._alignment.settled
        touching = self._touching.get(name, ())
        return not all(settled(norm.spaces, norm.index) for norm, _, _ in touching)

    def folded(
        self, name: str, one: Real, two: Real, axes: slice = slice(0, None)
    ) -> tuple[Real, Real]:
        """A tensor of both models as a fit may compare it.

        A reader of a norm of which nothing is known yet stands behind the gain. Where a scale was
        guessed from gains that are next to nothing, it may be any number: such columns count for as
        little as they do in the model. What writes the channels of a kernel stands behind its size,
        and the kernel has none.
        """
        own = self._gain.get(name)
        if own is not None and own.taps > 1 and self._scale(own) is None:
            one, two = (
                _along(x, 0, 1 / np.where(part == 0, 1, part))
                for x, part in zip((one, two), self._sizes(own), strict=True)
            )
        for norm, touch, power in self._touching.get(name, ()):
            if power > 0:
                continue
            if self._scale(norm) is None:
                by = self._sizes(norm)
            elif self._known[norm.gain].trust is not None:
                trust = self._known[norm.gain].trust
                assert trust is not None
                by = trust, trust
            else:
                continue
            axis = touch.axis - (axes.start or 0)
            one, two = (
                _along(x, axis, _at(part, touch)) for x, part in zip((one, two), by, strict=True)
            )
        return one, two

    def aligned(self, gain: str, offset: float) -> tuple[Float, Float] | None:
        """A gain of both models, with what is added; the protected one's as far as it is fitted.

        Args:
            gain: the tensor's name.
            offset: what is added to its stored numbers.

        Returns:
            None while its readers are compared behind it.
        """
        norm = self._gain.get(gain)
        if norm is not None and self._scale(norm) is None:
            return None
        one, two = (
            values(reader.read(gain), reader.entry(gain).shape, reader.entry(gain).dtype)
            for reader in (self._protected, self._anchor)
        )
        one = self._alignment.change(gain)(one.astype(np.float64) + offset)
        size = self._alignment.streams.by(gain) if offset else 1.0
        return one * size, two.astype(np.float64) + offset

    def trust(self, gain: str) -> Float | float:
        """How much columns of a gain's readers count in a fit."""
        known = self._known.get(gain)
        return 1.0 if known is None or known.trust is None else known.trust

    def columns(self, name: str) -> tuple[Float, Float] | None:
        """What the rows of a table, shown as its columns, are multiplied by; None if nothing."""
        for norm, touch, power in self._touching.get(name, ()):
            if power < 0 and self._scale(norm) is None:
                stored, wanted = self._sizes(norm)
                return _at(stored, touch), _at(wanted, touch)
        return None

    def change(self, name: str, change: TensorMap | StackMap) -> TensorMap | StackMap:
        """The map of a tensor of the protected model with what is known of its norms' scales."""
        if name in self._gain:
            scale = self._scale(self._gain[name])
            return change if scale is None else scaled(change, 0, scale)
        for norm, touch, power in self._touching.get(name, ()):
            scale = self._scale(norm)
            if scale is not None:
                change = scaled(change, touch.axis, _at(scale, touch) ** power)
        return change

    def moved(self, entry: TensorEntry, data: Bytes, change: TensorMap | StackMap) -> Bytes:
        """The aligned bytes of a tensor, whatever its numbers are.

        Args:
            entry: which tensor of the protected model.
            data: its bytes.
            change: its map, scales included.
        """
        norm = self._gain.get(entry.name)
        if norm is not None and norm.offset and change.has_scales and entry.dtype in FORMATS:
            form = FORMATS[entry.dtype]
            wide = change(form.values(data) + norm.offset) - norm.offset
            return cast(wide, form, True).view(np.uint8)
        return change.apply(data, entry.shape, entry.dtype, allow_non_finite=True, rounds=True)

    def look(self, name: str, axes: slice, one: Real, two: Real) -> None:
        """Takes in a reader of both models, the protected one's with all its other axes fitted.

        Args:
            name: of the tensor, or of a stack that these are one slice of.
            axes: which of its axes are there.
            one: the protected one's, as scaled so far.
            two: the base's.
        """
        for norm, touch, power in self._touching.get(name, ()):
            known = self._known[norm.gain]
            if power > 0 or known.scale is None:
                continue
            axis = touch.axis - (axes.start or 0)
            rows, wanted = (
                np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1).T for x in (one, two)
            )
            sums = _sums(rows, wanted)
            told = touch.places >= 0
            found = np.array(
                [np.bincount(touch.places[told], part[told], norm.size) for part in sums], float
            )
            if self._alignment.directions.behind_softmax(name):
                found[3] -= 1  # what all rows have in common was taken off
            if known.trust is not None:
                found[:3] = found[:3] / known.trust**2
            with self._guard:
                known.sums = found if known.sums is None else known.sums + found

    def settle(self, chosen: Iterable[Norm]) -> bool:
        """Decides the scales of norms by all that was looked at.

        Returns:
            Whether scales changed so much that what was fitted with them should be fitted again.
        """
        changed, norm_of_all = 0.0, 0.0
        for norm in chosen:
            known = self._known[norm.gain]
            if known.scale is None or known.gain is None or known.sums is None:
                continue
            before, known.scale = known.scale, _settled(known.scale, known.gain, known.sums)
            known.trust = None
            changed += float(known.sums[2][known.scale != before].sum())
            norm_of_all += float(known.sums[2].sum())
            known.sums = None
        return changed > _NOTABLE * norm_of_all

    def forget(self, layer: Mapping[str, int]) -> None:
        """Forgets the scales in the order of spaces that one layer has for itself."""
        for norm in self.norms:
            own = any(self._layout.spaces[name].per for name in norm.spaces)
            if own and layer.items() <= norm.index.items():
                self._known[norm.gain] = _Known()

    def _scale(self, norm: Norm) -> Float | None:
        """C as far as it is known: guessed from the two gains as soon as its spaces are fitted."""
        known = self._known[norm.gain]
        if known.scale is None and self._alignment.settled(norm.spaces, norm.index):
            stored, wanted = self._stored(norm)
            known.gain = self._in_order(norm, stored), wanted
            known.scale, known.trust = _guess(*known.gain)
        return known.scale

    def _in_order(self, norm: Norm, gain: Float) -> Float:
        """A gain of the protected model as it is fitted so far."""
        if all(self._layout.spaces[name].group is None for name in norm.spaces):
            return gain  # of any size, so that it has no map
        element = norm.axis.map(self._layout.spaces, self._alignment, norm.index)
        scale = element.scale if norm.taps > 1 else None
        return gain[element.source] * (1.0 if scale is None else scale[:, None])

    def _sizes(self, norm: Norm) -> tuple[Float, Float]:
        """The gains of both models as they are stored; of kernels their size, with a sign."""
        one, two = map(_size, self._stored(norm))
        return one, two

    def _stored(self, norm: Norm) -> tuple[Float, Float]:
        """The gains of both models as they are stored, with what a model adds to them."""
        one, two = (
            np.nan_to_num(
                values(
                    reader.read(norm.gain), (norm.size, norm.taps), reader.entry(norm.gain).dtype
                ).astype(float),
                nan=0, posinf=0, neginf=0,
            )
            + norm.offset
            for reader in (self._protected, self._anchor)
        )  # fmt: skip
        return one * self._alignment.streams.by(norm.gain), two


def _at(values: Float, touch: Touch) -> Float:
    """What each position of an axis has of a norm's values; one where it meets no norm."""
    return np.where(touch.places < 0, 1.0, values[touch.places])


def _size(gain: Float) -> Float:
    """Of each position its gain, or its kernel's length with the sign of the largest tap."""
    largest = np.take_along_axis(gain, np.abs(gain).argmax(1)[:, None], 1)[:, 0]
    return largest if gain.shape[1] == 1 else np.sign(largest) * np.linalg.norm(gain, axis=1)


def _along(tensor: Real, axis: int, by: Float) -> Real:
    """A tensor times a vector along one of its axes."""
    shape = [-1 if other == axis else 1 for other in range(tensor.ndim)]
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(tensor * by.astype(tensor.dtype).reshape(shape))


def scaled(change: TensorMap | StackMap, axis: int, scale: Float) -> TensorMap | StackMap:
    """A map followed by scales along one axis."""
    if (scale == 1).all():
        return change
    if isinstance(change, StackMap):
        slices = tuple(scaled(one, axis - 1, scale) for one in change.slices)
        return StackMap(change.source, slices)  # type: ignore[arg-type]
    axes = list(change.axes)
    axes[axis] = (axes[axis] or AxisMap.identity(len(scale))).followed_by(scale)
    return TensorMap.of(axes)


def _guess(gain: Float, wanted: Float) -> tuple[Float, Float | None]:
    """What brings one gain to another, and how much to trust it.

    Returns:
        A power of two with its sign, if these explain the gains, or their ratio; and how much
        columns count, from next to nothing to one, or None if all count in full.
    """
    alike = np.where((gain * wanted).sum(1) < 0, -1.0, 1.0)
    gain, wanted = _size(gain), _size(wanted)
    known = (gain != 0) & (wanted != 0)
    wanted = np.where(known, alike * np.sign(gain), 1) * np.abs(wanted)
    ratio = np.where(known, wanted, 1) / np.where(known, gain, 1)
    octaves = np.log2(np.abs(ratio))
    lossless = not known.any() or near_powers(ratio[known])
    scale = power_of_two(ratio) if lossless else np.asarray(ratio)
    trust = np.where(scale == 1, 1, np.clip(share(wanted), 1e-3, 1))
    if np.mean(scale == 1) > _MOST:  # then what is next to nothing was fine-tuned, and not moved
        scale = np.where((trust < 1) & (np.abs(octaves) < _FAR), 1, scale)
    return scale, None if (trust == 1).all() else np.asarray(trust)


def near_powers(scale: Float) -> bool:
    """Whether the usual scale is as good as a power of two."""
    octaves = np.log2(np.abs(scale))
    return bool(np.median(np.abs(octaves - np.round(octaves))) <= _OCTAVE)


def share(gain: Float) -> Float:
    """How large gains are, of what tells a scale for certain."""
    return np.asarray(np.abs(gain) / max(_SMALL * float(np.median(np.abs(gain))), 1e-300))


def _sums(rows: Real, wanted: Real) -> tuple[Float, Float, Float, Float]:
    """Of each column, the product with the base's, the squares, the base's, the rows: each (n,).

    Rows that no input reaches are left out: they may be of any length, and would outweigh all else.
    """
    # By a few columns' median: columns whose scale was guessed wrongly may be of any length, too.
    step = max(1, rows.shape[1] // _COLUMNS)
    have, want = (np.median(np.abs(x[:, ::step]), axis=1) for x in (rows, wanted))
    alike = np.isfinite(want) & (have <= LONGER * want)
    if not alike.all():
        rows, wanted = rows[alike], wanted[alike]
    inner, moved, anchor = (
        np.asarray(np.einsum("ij,ij->j", one, two), np.float64)
        for one, two in ((rows, wanted), (rows, rows), (wanted, wanted))
    )
    return inner, moved, anchor, np.full(len(inner), float(len(rows)))


def _settled(scale: Float, gain: tuple[Float, Float], sums: Float) -> Float:
    """The best scales: those so far times what brings gain and columns closest to the base's."""
    have, want = gain[0] * scale[:, None], gain[1]
    products = np.array([have * want, have * have, want * want]).sum(2)
    return settled(scale, products, sums)


def settled(scale: Float, gains: Float, sums: Float, few: bool = False) -> Float:
    """The best scales: those so far times what brings both sides closest to the base's.

    Args:
        scale: those so far, shape (n,).
        gains: what is multiplied, as scaled so far: products with the base's, squares, and the
            base's squares, shape (3, n).
        sums: of what is divided, the same, and how many numbers they are of, shape (4, n).
        few: whether the numbers are too few for their errors to tell powers of two from others.
    """
    inner, moved, anchor, count = sums
    w, ww, vv = gains
    # Columns vote on the sign as far as they are alike, gains as far as they are large.
    alike = inner / np.sqrt(np.maximum(moved * anchor, 1e-300))
    if not few:
        alike *= np.clip(np.maximum(share(np.sqrt(anchor)), count / _FEW), 0, 1)
    vote = np.sign(w) * np.minimum(1, share(np.sqrt(vv)))
    sign = np.where(alike + vote < 0, -1.0, 1.0)
    best = sign * balance(sign * w, ww, sign * inner, moved)
    snapped = power_of_two(best * scale) / scale

    def error(s: Float) -> Float:
        return np.asarray(s**2 * ww - 2 * s * w + vv + moved / s**2 - 2 * inner / s + anchor)

    whole = vv + anchor + ww + moved
    # One number of each position's was spent on its scale.
    free = np.maximum(error(best), 0) * (count + 1) / np.maximum(count, 1)
    lossless, rounding = error(snapped), ROUNDING * whole
    sure = sign * alike >= _ALIKE
    belief = LENIENT if not few and np.median(count) < _FEW else BELIEF
    explained = few and near_powers(best * scale)
    explained |= lossless[sure].sum() <= belief * free[sure].sum() + rounding[sure].sum()
    # Few rows may fit by chance: no position is taken to be nearer to the base than all are.
    left, size = free[sure].sum() / max(float(whole[sure].sum()), 1e-300), whole
    if few:  # nor is a small number, of which fine-tuning moves a larger share
        size = np.maximum(whole, float(whole[sure].sum()) / max(float(sure.sum()), 1))
    else:
        mean = float(whole[sure].sum()) / max(int(sure.sum()), 1)
        size = np.where(count < _FEW, np.maximum(whole, mean), whole)
    usual = left * size
    free, limit = np.maximum(free, usual), LENIENT if explained else BELIEF
    found = np.where(lossless <= limit * free + rounding, snapped, best)
    return np.asarray(np.where(sure, found * scale, scale))
