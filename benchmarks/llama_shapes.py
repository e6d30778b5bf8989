"""What Llama-shaped folders are made of, for benchmarks on synthetic weights."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping


def layer_shapes(
    hidden: int, heads: int, groups: int, head: int, ffn: int
) -> dict[str, tuple[int, ...]]:
    """The shapes of one layer's tensors by name, without the layer's prefix."""
    return {
        "input_layernorm.weight": (hidden,),
        "self_attn.q_proj.weight": (heads * head, hidden),
        "self_attn.k_proj.weight": (groups * head, hidden),
        "self_attn.v_proj.weight": (groups * head, hidden),
        "self_attn.o_proj.weight": (hidden, heads * head),
        "post_attention_layernorm.weight": (hidden,),
        "mlp.gate_proj.weight": (ffn, hidden),
        "mlp.up_proj.weight": (ffn, hidden),
        "mlp.down_proj.weight": (hidden, ffn),
    }


def header(shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    """The first bytes of a safetensors file of bfloat16 tensors, which follow in this order."""
    table: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, shape in shapes.items():
        stop = start + 2 * math.prod(shape)
        table[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(table).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
