"""Tensor names as modules of transformers 5 have them: custom code loads no older spelling.

Stock classes read older names of some architectures by rules of their own, which transformers does
not apply to custom code. The data files list each tensor's spellings with that of transformers 5
last. A gated FFN whose two matrices are stored as one is taken apart as there.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from unmergeable.architectures.layout import Layout

# Buffers of old checkpoints, computed from the config.
UNUSED = (".attn.bias", ".attn.masked_bias", ".position_ids", ".inv_freq")
_FUSED, _PARTS = ".weights_in.", (".gate_proj.", ".up_proj.")


def stock_name(layout: Layout, name: str) -> str:
    """A stored tensor's name in transformers 5."""
    placement = layout.placements[name]
    rule = placement.rule
    prefix = rule.prefix if name.startswith(rule.prefix) else ""
    return prefix + rule.name(placement.index, layout.spaces, spelling=-1)


def stock_values(
    layout: Layout, name: str, values: npt.NDArray[Any]
) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """A stored tensor as the tensors that transformers 5 makes of it."""
    own = stock_name(layout, name)
    if _FUSED not in own:
        yield own, values
        return
    for part, half in zip(_PARTS, np.split(values, 2), strict=True):
        yield own.replace(_FUSED, part), half
