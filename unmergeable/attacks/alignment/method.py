"""What a method of alignment decides; unless it says otherwise, as our own does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from unmergeable.architectures.layout import Layout
from unmergeable.attacks.alignment.engine import Alignment
from unmergeable.attacks.alignment.fitted import Fitted
from unmergeable.attacks.alignment.heads import HeadMatch, by_products, by_rows
from unmergeable.attacks.alignment.pairing import Shape
from unmergeable.attacks.alignment.pairs import BlockPair
from unmergeable.checkpoint.header import TensorEntry
from unmergeable.checkpoint.reader import TensorReader
from unmergeable.checkpoint.rewrite import Advance
from unmergeable.gauge.axis_map import AxisMap
from unmergeable.gauge.fit import fit, fit_wide
from unmergeable.gauge.groups import Group
from unmergeable.gauge.memory import Bytes
from unmergeable.gauge.notation import Space
from unmergeable.gauge.views import View, Wide

Anchor = Callable[[], Bytes]


class Method:
    """A way of fitting; one object serves one model.

    The published attacks say nothing of the residual stream, which the defences they break do not
    move, and most of them nothing of the order of heads. For all of them this shared stage is ours
    (`whole`, `heads`, and the gains of norms), so that what is compared is what they do inside
    heads and in the FFN.

    Attributes:
        name: as the command line takes it.
        sentence: what it does, in one line.
        source: its paper, or "ours".
        order: where it stands in lists; low ones first.
        compares: whether it compares the two models; only then can gains that moved be seen.
    """

    name: ClassVar[str]
    sentence: ClassVar[str]
    source: ClassVar[str]
    order: ClassVar[int] = 1000
    compares: ClassVar[bool] = True

    def fit(
        self,
        layout: Layout,
        protected: TensorReader,
        anchor: TensorReader,
        shapes: Mapping[str, Shape],
        advance: Advance,
    ) -> Fitted:
        """Fits a whole model; see `Alignment` for the arguments."""
        alignment = Alignment(layout, protected, anchor, shapes, self)
        alignment.fit_all(advance)
        return alignment

    def whole(self, group: Group, shown: Sequence[Wide]) -> AxisMap:
        """Fits a space that the whole model shares, such as the residual stream."""
        return fit_wide(group, shown)

    def heads(
        self,
        head: Space,
        query: Space | None,
        leaves: Sequence[Space],
        pairs: Sequence[BlockPair],
    ) -> HeadMatch:
        """Matches the heads of one layer, and the query heads of each.

        Args:
            head: the heads' space, or the key-value groups'.
            query: the space of the query heads of one group, if there is one.
            leaves: the spaces inside a head.
            pairs: the layer's blocks in both models.
        """
        return by_products(head, query, leaves, pairs)

    def experts(self, blocks: Sequence[BlockPair], outer: Space, inner: Space | None) -> HeadMatch:
        """Matches the experts of one layer by what the router has for each.

        Args:
            blocks: the router's, which have no other spaces left to fit.
            outer: the space of the experts, or of the groups that they come in.
            inner: the space of the experts of one group, if they come in groups.
        """
        return by_rows(blocks, outer, inner)

    def inside(self, group: Group, views: Sequence[View]) -> AxisMap:
        """Fits a space inside one head."""
        return fit(group, views)

    def neurons(self, group: Group, views: Sequence[View]) -> AxisMap:
        """Fits a layer's FFN neurons."""
        return fit(group, views)

    def layer(self, layout: Layout, position: int, pairs: Sequence[BlockPair]) -> None:
        """Looks at a layer's blocks once more, where a fit per space is not what a method does."""

    def recover(
        self, layout: Layout, gauge: Fitted, entry: TensorEntry, data: Bytes, anchor: Anchor | None
    ) -> Bytes:
        """The aligned bytes of one tensor.

        Args:
            layout: the model's.
            gauge: as `fit` returned it.
            entry: which tensor of the protected model.
            data: its bytes.
            anchor: reads the base's tensor in whose place it goes, in the same dtype; None if the
                base has no such tensor.
        """
        return gauge.moved(entry, data)
