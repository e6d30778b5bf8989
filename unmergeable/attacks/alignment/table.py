"""Tables too large to hold, such as embeddings, as views that are read a few columns at a time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from unmergeable.architectures.layout import Layout
from unmergeable.attacks.alignment.directions import SAMPLE, common
from unmergeable.attacks.alignment.fitted import Fitted
from unmergeable.checkpoint.reader import TensorReader
from unmergeable.gauge.axis_map import Float
from unmergeable.gauge.notation import Atom
from unmergeable.gauge.parts import Real, moved_values
from unmergeable.gauge.tensor_map import TensorMap
from unmergeable.gauge.views import View


@dataclass(frozen=True, eq=False)
class Table:
    """A matrix of both models whose columns are a space's positions, and whose rows are fixed.

    Attributes:
        side: of the space.
        rows: positions of the space.
        columns: the fixed positions that both models have.
    """

    side: str
    rows: int
    columns: int
    _name: str
    _change: TensorMap
    _protected: TensorReader
    _anchor: TensorReader
    _folded: tuple[Float, Float] | None
    _centred: tuple[bool, bool]

    @classmethod
    def of(
        cls,
        layout: Layout,
        gauge: Fitted,
        name: str,
        space: str,
        protected: TensorReader,
        anchor: TensorReader,
        folded: tuple[Float, Float] | None = None,
        centred: tuple[bool, bool] = (False, False),
    ) -> Table | None:
        """The table that a tensor is; None if it is something else.

        Args:
            layout: of both models.
            gauge: what is fitted so far.
            name: the tensor, which has that name in both models.
            space: whose positions are wanted.
            protected: the protected model's tensors.
            anchor: the base's.
            folded: what the positions of both models' are multiplied by, each of shape (rows,).
            centred: whether what the fixed rows have in common is taken off, and the mean of each.
        """
        axes = layout.placements[name].rule.axes
        shape = tuple(map(min, protected.entry(name).shape, anchor.entry(name).shape))
        if len(axes) != 2 or not shape[0] or not all(isinstance(axis, Atom) for axis in axes):
            return None
        first, second = axes
        assert isinstance(first, Atom) and isinstance(second, Atom)
        if second.name != space or first.name in layout.movable():
            return None
        change = gauge.change(name)
        if layout.source(name, gauge) != name or not isinstance(change, TensorMap):
            return None
        found = second.side, shape[1], shape[0], name, change, protected, anchor, folded, centred
        return cls(*found)

    def part(self, columns: slice) -> View:
        """See `Wide`."""
        one, two = self._tensors(columns)
        if self._centred[0]:
            one, two = one - self._common[0], two - self._common[1]
        if self._centred[1]:
            one, two = (x - x.mean(1, keepdims=True) for x in (one, two))
        return View(self.side, one.T, two.T)

    @cached_property
    def _common(self) -> tuple[Real | float, Real | float]:
        """What the fixed rows of both models have in common."""
        sample = slice(None, None, -(-self.columns // SAMPLE))
        one, two = self._tensors(sample)
        return common(one, two, 0)

    def _tensors(self, columns: slice) -> list[Real]:
        """Some of the fixed rows of both models."""
        tensors, places = [], range(self.columns)[columns]
        columns = slice(places.start, places.stop, places.step)
        for reader, change in ((self._protected, self._change), (self._anchor, TensorMap(()))):
            data = reader.rows(self._name, columns)
            shape = (len(places), self.rows)
            tensors.append(moved_values(change, data, shape, reader.entry(self._name).dtype))
        if self._folded is not None:
            with np.errstate(all="ignore"):
                tensors = [
                    tensor * by.astype(tensor.dtype)
                    for tensor, by in zip(tensors, self._folded, strict=True)
                ]
        return tensors
