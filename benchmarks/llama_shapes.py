"""The tensors of one layer of a Llama-shaped model, for benchmarks on synthetic weights."""

from __future__ import annotations


def layer_shapes(
    hidden: int, heads: int, groups: int, head: int, ffn: int
) -> dict[str, tuple[int, ...]]:
    """Shapes by name, without the layer's prefix."""
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
