"""A second opinion on sides: the plans by which transformers splits matrices among machines.

A matrix that a plan splits by its outputs ("colwise") writes into a space of its layer, and reads
from the stream; one that it splits by its inputs ("rowwise") reads from a space of its layer, and
writes into the stream. Plans name modules as they are in memory.
"""

from __future__ import annotations

import re

import pytest

from tests.architectures.families import FAMILIES
from tests.architectures.moving import scene
from unmergeable.gauge.notation import Atom

COLWISE = {"colwise", "packed_colwise", "colwise_gather_output"}
ROWWISE = {"rowwise", "packed_rowwise", "rowwise_split_input"}
# Model types whose plans split experts or a projector alone, or name modules otherwise than the
# disk does.
EXPERTS_ALONE = {
    "phimoe", "granitemoe", "granitemoeshared", "granitemoehybrid", "afmoe", "hunyuan_v1_moe",
    "lfm2_moe", "nemotron_h", "llama4",
}  # fmt: skip


def plan_of(family):
    return getattr(family.config, "base_model_tp_plan", None) or {}


@pytest.mark.parametrize(
    "family", [f for f in FAMILIES if plan_of(f)], ids=lambda family: family.name
)
def test_matrices_stand_on_the_side_that_the_plan_says(family):
    layout, checked = scene(family.name).layout, 0
    for module, style in plan_of(family).items():
        if style not in COLWISE | ROWWISE or "layers." not in module:
            continue
        pattern = re.compile(r"(?:.*\.)?" + re.escape(module).replace(r"\*", r"\d+") + r"\.weight")
        found = [p for name, p in layout.placements.items() if pattern.fullmatch(name)]
        for placement in found:
            rows, columns = placement.rule.axes
            if style == "colwise_gather_output" and isinstance(rows, Atom):
                continue  # split without regard to sides, as it is put together again
            stream, inner = (columns, rows) if style in COLWISE else (rows, columns)
            assert isinstance(stream, Atom), (module, str(stream))
            assert stream.side == ("read" if style in COLWISE else "write"), (module, str(stream))
            # A latent stream is one of its layer; everything else is of the whole model.
            assert set(layout.spaces[stream.name].per) <= {"layer"}, (module, str(stream))
            per = {i for name in inner.names() for i in layout.spaces[name].per}
            assert per & {"layer", "keeper", "vision_layer"}, (module, str(inner))
            if style in ROWWISE:
                assert str(inner).count("*") == 1, (module, str(inner))
            checked += 1
    assert checked >= 4 or family.config.model_type in EXPERTS_ALONE, (
        "the plan's names are not those on disk"
    )
