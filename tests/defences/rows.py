"""One row per exact defence: what `test_exactness` holds it to. A new defence is a new row."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.architectures.twin import Draw, defence_of
from unmergeable.defences.defence import GaugeDefence
from unmergeable.defences.mergelock import MergeLock
from unmergeable.defences.params import Params


@dataclass(frozen=True)
class Row:
    """A defence with settings.

    Attributes:
        every: run it on every model class, not on one per architecture.
        float32: the bar for outputs in float32; higher where what is drawn is ill-conditioned.
        narrow: it must cost bfloat16 no more than the bar: not what is lossless and costs nothing,
            nor what is refused there.
    """

    name: str
    defence: GaugeDefence
    settings: dict[str, Any] = field(default_factory=dict)
    every: bool = False
    float32: float = 1e-4
    narrow: bool = True

    @property
    def draw(self) -> Draw:
        return defence_of(self.defence, self.settings)


ROWS = [
    Row("mergelock", MergeLock(), every=True),
    Row("params", Params(), every=True),
    Row("params-published", Params(), {"parts": "mlp", "as_published": "true"}, narrow=False),
    Row("params-symmetric", Params(), {"variant": "symmetric"}, narrow=False),
    Row("params-nonsymmetric", Params(), {"variant": "nonsymmetric"}, float32=1e-3, narrow=False),
]
