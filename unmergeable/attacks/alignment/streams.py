"""The size of streams, and of sums before them, brought back to the base's.

The embeddings show it once they are fitted; where they are normed before the stream, its first gain
and bias do. All that writes into a stream follows, before any layer is fitted. What such a sum was
multiplied by would hide its order, so that it is guessed before anything is fitted: its sign by the
gain that took it, its size by lengths of rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from unmergeable.architectures.streams import Part, streams_of
from unmergeable.attacks.alignment.gains import scaled
from unmergeable.attacks.alignment.pairing import Shape, common_part
from unmergeable.checkpoint.header import TensorEntry
from unmergeable.checkpoint.reader import TensorReader
from unmergeable.gauge.axis_map import Float
from unmergeable.gauge.floats import FORMATS, cast
from unmergeable.gauge.memory import Bytes
from unmergeable.gauge.parts import Real, values
from unmergeable.gauge.stack_map import StackMap
from unmergeable.gauge.tensor_map import TensorMap

if TYPE_CHECKING:
    from unmergeable.attacks.alignment.engine import Alignment

# Rows tell the size if they point the base's way.
_ALIKE = 0.7
# Fine-tuning makes some rows longer than others, a stream's size all of them alike: it is a power
# of two, or one, if that is within this many times the usual row's distance from the median, in
# octaves.
_SPREAD, _ROUNDING = 3.0, 1e-5
# Fewer rows may be alike by chance: then it is one, or a power of two, if it is this near to it.
_FEW, _NEAR = 16, 0.05
_ROWS = 128  # of a table, which tell the size


class Streams:
    """The sizes of all streams of a model.

    Args:
        alignment: both models, and what is fitted so far. Sizes stay if its method compares
            nothing.
    """

    def __init__(self, alignment: Alignment) -> None:
        protected, anchor, shapes = alignment.protected, alignment.anchor, alignment.shapes
        self._layout, self._shapes = alignment.layout, protected.folder.shapes
        self._streams = streams_of(self._layout, self._shapes) if alignment.compares else []
        self._parts = {
            part.name: part for stream in self._streams for part in (*stream.parts, *stream.gains)
        }
        self._by: dict[str, float] = {}
        for stream in self._streams:
            tables = [p for p in stream.parts if p.name in shapes and self._is_table(p)]
            if tables and stream.gains and all(part.name in shapes for part in stream.gains):
                told = [_before_order(part, shapes, protected, anchor) for part in tables]
                both = (
                    [_mean(reader, part) for part in stream.gains] for reader in (protected, anchor)
                )
                sign = -1.0 if np.vdot(*both) < 0 else 1.0
                self._times(stream.parts, sign * size_of(np.concatenate(told, axis=1)))
                self._times(stream.gains, sign)

    def by(self, name: str) -> float:
        """What a tensor, with what a model adds to it, is multiplied by."""
        return self._by.get(name, 1.0)

    def change(self, name: str, change: TensorMap | StackMap) -> TensorMap | StackMap:
        """The map of a tensor of the protected model with what is known of its stream's size."""
        if name not in self._by or self._parts[name].offset:
            return change
        part = self._parts[name]
        return scaled(change, part.axis, np.full(self._shapes[name][part.axis], self._by[name]))

    def aligned(self, name: str, change: TensorMap | StackMap, wide: Float) -> Float:
        """The aligned numbers of a tensor, also of a gain that is stored with an offset."""
        part = self._parts.get(name)
        if name not in self._by or part is None or not part.offset:
            return change(wide)
        return np.asarray(change(wide + part.offset) * self._by[name] - part.offset)

    def moved(
        self,
        entry: TensorEntry,
        data: Bytes,
        change: TensorMap | StackMap,
        moved: Callable[[], Bytes],
    ) -> Bytes:
        """The aligned bytes of a tensor.

        Args:
            entry: which tensor of the protected model.
            data: its bytes.
            change: its map.
            moved: makes them of any tensor but a gain that is stored with an offset.
        """
        if entry.name not in self._by or not self._parts[entry.name].offset:
            return moved()
        form = FORMATS[entry.dtype]
        wide = self.aligned(entry.name, change, form.values(data).astype(np.float64))
        return cast(wide, form, True).view(np.uint8)

    def settle(self, names: Iterable[str], sample: Callable[[str, int], tuple[Real, Real]]) -> None:
        """Decides all sizes by tables that stand in no layer, once the streams are fitted.

        Args:
            names: of such tensors, that both models have.
            sample: gives some rows of one in both models, the protected one's as fitted.
        """
        known = set(names)
        for stream in self._streams:
            shown = [part for part in stream.parts if part.name in known and part.power > 0]
            tables = [part for part in shown if self._is_table(part)]
            rows = [_rows(part, *sample(part.name, _ROWS)) for part in tables or shown]
            size = size_of(np.concatenate(rows, axis=1)) if rows else 1.0
            self._times(stream.parts, size)

    def _times(self, parts: Iterable[Part], size: float) -> None:
        for part in parts if size != 1 else ():
            self._by[part.name] = self.by(part.name) * size**part.power

    def _is_table(self, part: Part) -> bool:
        return len(self._shapes[part.name]) > 1 and not self._layout.is_stack(part.name)


def _rows(part: Part, one: Real, two: Real) -> Float:
    """Of each row of a table, the product with the base's, the squares, the base's: (3, n)."""
    rows, wanted = (
        _along(np.nan_to_num(x, posinf=0, neginf=0).astype(np.float64) + part.offset, part.axis)
        for x in (one, two)
    )
    pairs = ((rows, wanted), (rows, rows), (wanted, wanted))
    return np.array([np.einsum("ij,ij->i", *pair) for pair in pairs])


def _along(tensor: Real, axis: int) -> Real:
    """A tensor as rows along one of its axes."""
    return np.moveaxis(tensor, axis, -1).reshape(-1, tensor.shape[axis])


def _before_order(
    part: Part, shapes: Mapping[str, Shape], protected: TensorReader, anchor: TensorReader
) -> Float:
    """What a table tells of its size before it is fitted."""
    size = shapes[part.name][0]
    chosen = slice(0, size, -(-size // _ROWS) if part.axis else 1)
    both = (slice(None), *common_part(shapes, part.name)[1:])
    one, two = (
        values(reader.rows(part.name, chosen), (-1, *entry.shape[1:]), entry.dtype)[both]
        for reader in (protected, anchor)
        for entry in (reader.entry(part.name),)
    )
    return before_order(one, two, part.axis)[1]


def _mean(reader: TensorReader, part: Part) -> float:
    """The mean of a gain as stored, with what a model adds to it."""
    entry = reader.entry(part.name)
    wide = values(reader.read(part.name), entry.shape, entry.dtype).astype(np.float64)
    return float(np.nan_to_num(wide, posinf=0, neginf=0).mean()) + part.offset


def before_order(one: Real, two: Real, axis: int) -> tuple[float, Float]:
    """What two tensors tell of a sign and a size, whatever the order of positions along one axis.

    Args:
        one: the protected model's, with its other axes fitted.
        two: the base's.
        axis: the number of that axis; a LayerNorm takes the mean along it off.

    Returns:
        How alike the third moments are, negative where all is turned round; and of each row along
        the axis what `size_of` takes.
    """
    cubes, squares = [], []
    for tensor in (one, two):
        rows = _along(np.nan_to_num(tensor, posinf=0, neginf=0).astype(np.float64), axis)
        rows = rows - rows.mean(1, keepdims=True)
        squares.append(np.einsum("ij,ij->i", rows, rows))
        unit = rows / np.sqrt(np.maximum(squares[-1], 1e-300))[:, None]
        cubes.append((unit**3).sum(1))
    return float(np.vdot(*cubes)), np.array([np.sqrt(squares[0] * squares[1]), *squares])


def size_of(rows: Float) -> float:
    """What brings a stream to the base's size."""
    inner, moved, anchor = rows
    told = inner > _ALIKE * np.sqrt(moved * anchor)
    if not told.any():
        return 1.0
    octaves = np.log2(anchor[told] / moved[told]) / 2
    usual = float(np.median(octaves))
    spread = float(np.median(np.abs(octaves - usual)))
    whole = round(usual)
    near = max(_SPREAD * spread + _ROUNDING, _NEAR if len(octaves) < _FEW else 0.0)
    return 2.0 ** (whole if abs(usual - whole) <= near else usual)
