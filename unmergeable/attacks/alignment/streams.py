"""The size of streams, brought back to the base's: what the embeddings show once they are fitted.

All that writes into a stream follows, before any layer is fitted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np

from unmergeable.architectures.streams import Part, streams_of
from unmergeable.attacks.alignment.gains import scaled
from unmergeable.checkpoint.header import TensorEntry
from unmergeable.gauge.axis_map import Float
from unmergeable.gauge.floats import FORMATS, cast
from unmergeable.gauge.memory import Bytes
from unmergeable.gauge.parts import Real
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
        self._layout, self._shapes = alignment.layout, alignment.protected.folder.shapes
        self._streams = streams_of(self._layout) if alignment.compares else []
        self._parts = {part.name: part for stream in self._streams for part in stream.parts}
        self._by: dict[str, float] = {}

    def by(self, name: str) -> float:
        """What a tensor, with what a model adds to it, is multiplied by."""
        return self._by.get(name, 1.0)

    def change(self, name: str, change: TensorMap | StackMap) -> TensorMap | StackMap:
        """The map of a tensor of the protected model with what is known of its stream's size."""
        if name not in self._by or self._parts[name].offset:
            return change
        part = self._parts[name]
        return scaled(change, part.axis, np.full(self._shapes[name][part.axis], self._by[name]))

    def moved(self, entry: TensorEntry, data: Bytes, change: TensorMap | StackMap) -> Bytes | None:
        """The aligned bytes of a gain that is stored with an offset; None of any other tensor."""
        part = self._parts.get(entry.name)
        if entry.name not in self._by or part is None or not part.offset:
            return None
        form = FORMATS[entry.dtype]
        wide = change(form.values(data).astype(np.float64) + part.offset) * self._by[entry.name]
        return cast(wide - part.offset, form, True).view(np.uint8)

    def settle(self, names: Iterable[str], sample: Callable[[str, int], tuple[Real, Real]]) -> None:
        """Decides all sizes by tables that stand in no layer, once the streams are fitted.

        Args:
            names: of such tensors, that both models have.
            sample: gives some rows of one in both models, the protected one's as fitted.
        """
        known = set(names)
        for stream in self._streams:
            tables = [part for part in stream.parts if part.name in known and part.power > 0]
            rows = [
                _rows(part, *sample(part.name, _ROWS)) for part in tables if self._is_table(part)
            ]
            size = _size(np.concatenate(rows, axis=1)) if rows else 1.0
            if size != 1:
                self._by |= {part.name: size**part.power for part in stream.parts}

    def _is_table(self, part: Part) -> bool:
        return len(self._shapes[part.name]) > 1 and not self._layout.is_stack(part.name)


def _rows(part: Part, one: Real, two: Real) -> Float:
    """Of each row of a table, the product with the base's, the squares, the base's: (3, n)."""
    rows, wanted = (
        np.nan_to_num(np.moveaxis(x, part.axis, -1).reshape(-1, x.shape[part.axis]), posinf=0,
                      neginf=0).astype(np.float64)
        for x in (one, two)
    )  # fmt: skip
    pairs = ((rows, wanted), (rows, rows), (wanted, wanted))
    return np.array([np.einsum("ij,ij->i", *pair) for pair in pairs])


def _size(rows: Float) -> float:
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
