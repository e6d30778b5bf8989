"""Attention reset: the thief gives up the expert's attention and takes the base's."""

from __future__ import annotations

from unmergeable.architectures.layout import Layout
from unmergeable.attacks.alignment.fitted import Fitted
from unmergeable.attacks.alignment.method import Anchor, Method
from unmergeable.attacks.alignment.spaces import inner_spaces
from unmergeable.checkpoint.header import TensorEntry
from unmergeable.gauge.memory import Bytes


class BaseReset(Method):
    """Replaces every tensor that touches a space inside heads by the base's; the rest is ours.

    This is what unconstrained least squares over a square matrix amounts to (see `aga_full`), and
    the floor that any attack on attention has to beat: it loses all that fine-tuning did there. The
    output's bias stays, since no change of a head's coordinates reaches it. The result is another
    model than the protected one. Source: ours; AGA as printed (arXiv 2606.30360) degenerates to it.
    """

    name = "base-reset"
    order = 20
    sentence = "the base's attention instead of the expert's"
    source = "what arXiv 2606.30360 as printed degenerates to"

    def recover(
        self, layout: Layout, gauge: Fitted, entry: TensorEntry, data: Bytes, anchor: Anchor | None
    ) -> Bytes:
        """The anchor's bytes inside attention."""
        used = {n for axis in layout.placements[entry.name].rule.axes for n in axis.names()}
        if anchor is not None and used & inner_spaces(layout):
            return anchor()
        return super().recover(layout, gauge, entry, data, anchor)
