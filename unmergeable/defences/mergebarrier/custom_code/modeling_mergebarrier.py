"""Models whose FFN activations are unfolded as Taylor polynomials (MergeBarrier-style).

This file travels with such a model; it needs torch and transformers and nothing else. Each class is
a stock class of transformers whose FFN layers were exchanged:

    y = W a(z) + sum over n of Theta_n t^n           z: ordinary neurons, t: expanded ones
    y = W (a(z) * u) + sum over n of Theta_n (t^n * u)      the same where the FFN is gated

with t = s (w x + b - z0) for a centre z0 and a sign s of each neuron, both folded into its row and
its bias. t is clamped to `limit`, for beyond what it was made for a polynomial explodes.

The method is reconstructed from the abstract of arXiv 2511.10712 and secondary sources.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn
from transformers.activations import ACT2FN

PREFIX = "MergeBarrier"
SECTION = "mergebarrier"


@dataclass(frozen=True)
class Family:
    """Where a family keeps its FFN.

    Attributes:
        layers: the config's key for their number.
        up: path of the layer that is expanded, below the trunk; the gate of a gated FFN.
        down: path of the layer back into the residual stream.
        activation: the config's key for the activation, or its name after an equals sign.
        act: path of the module that applies it; empty where the whole FFN is exchanged.
        block: path of a gated FFN; empty where only its layers are exchanged.
        carried: path of the layer that a gated FFN multiplies by.
        transposed: whether matrices are stored (in, out), as in GPT-2.
    """

    layers: str
    up: str
    down: str
    activation: str = "hidden_act"
    act: str = ""
    block: str = ""
    carried: str = ""
    transposed: bool = False


def _gated(block: str, activation: str = "hidden_act") -> Family:
    return Family(
        "num_hidden_layers",
        f"{block}.gate_proj",
        f"{block}.down_proj",
        activation,
        block=block,
        carried=f"{block}.up_proj",
    )


_PLAIN = "encoder.layer.{}.intermediate"
FAMILIES = {
    "llama": _gated("layers.{}.mlp"),
    "mistral": _gated("layers.{}.mlp"),
    "qwen2": _gated("layers.{}.mlp"),
    "bert": Family(
        "num_hidden_layers",
        f"{_PLAIN}.dense",
        "encoder.layer.{}.output.dense",
        act=f"{_PLAIN}.intermediate_act_fn",
    ),
    "vit": Family(
        "num_hidden_layers",
        "layers.{}.mlp.fc1",
        "layers.{}.mlp.fc2",
        act="layers.{}.mlp.activation_fn",
    ),
    "dinov2": Family(
        "num_hidden_layers",
        "encoder.layer.{}.mlp.fc1",
        "encoder.layer.{}.mlp.fc2",
        act="encoder.layer.{}.mlp.activation_fn",
    ),
    "dinov2 gated": _gated("encoder.layer.{}.mlp", "=silu"),
    "gpt2": Family(
        "n_layer",
        "h.{}.mlp.c_fc",
        "h.{}.mlp.c_proj",
        "activation_function",
        act="h.{}.mlp.act",
        transposed=True,
    ),
}


def family_of(model_type: str, config: Mapping[str, Any]) -> tuple[Family, str] | None:
    """The family of a stock model type, and the name of its activation; None for another type.

    Args:
        model_type: of the stock model.
        config: its config, as a mapping.
    """
    gated = model_type == "dinov2" and config.get("use_swiglu_ffn")
    family = FAMILIES.get("dinov2 gated" if gated else model_type)
    if family is None:
        return None
    default = "gelu_new" if model_type == "gpt2" else "silu" if family.block else "gelu"
    name = family.activation
    return family, name[1:] if name.startswith("=") else config.get(name) or default


class TaylorUp(nn.Module):
    """The first layer of an FFN: ordinary neurons with their activation, then expanded ones.

    Args:
        width: of the residual stream.
        neurons: all of them.
        expanded: how many of the last ones are unfolded.
        activation: of the others.
        transposed: whether the matrix is stored (in, out).
        clamp: whether t is clamped.
    """

    limit: torch.Tensor

    def __init__(
        self,
        width: int,
        neurons: int,
        expanded: int,
        activation: str,
        transposed: bool,
        clamp: bool,
    ) -> None:
        super().__init__()
        self.ordinary, self.expanded = neurons - expanded, expanded
        self.activation, self.transposed, self.clamp = ACT2FN[activation], transposed, clamp
        shape = (width, neurons) if transposed else (neurons, width)
        self.weight = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.zeros(neurons))
        self.register_buffer("limit", torch.zeros(expanded))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Activations of the ordinary neurons and t of the expanded ones, side by side."""
        z = nn.functional.linear(x, self.weight.T if self.transposed else self.weight, self.bias)
        z, t = z.split([self.ordinary, self.expanded], -1)
        if self.clamp:
            t = torch.minimum(torch.maximum(t, -self.limit), self.limit)
        return torch.cat([self.activation(z), t], -1)


class TaylorDown(nn.Module):
    """The last layer of an FFN: an ordinary matrix, and one more for each power of t.

    Args:
        width: of the residual stream.
        neurons: all of them.
        expanded: how many of the last ones are unfolded.
        order: N.
        transposed: whether `weight` is stored (in, out); `terms` is (power, out, in) always.
        first: the lowest power in `terms`: 0 in a gated FFN, else 1, as power 0 is in the bias.
        bias: whether there is a bias.
    """

    def __init__(
        self,
        width: int,
        neurons: int,
        expanded: int,
        order: int,
        transposed: bool,
        first: int,
        bias: bool,
    ) -> None:
        super().__init__()
        self.ordinary, self.expanded = neurons - expanded, expanded
        self.transposed, self.first = transposed, first
        shape = (self.ordinary, width) if transposed else (width, self.ordinary)
        self.weight = nn.Parameter(torch.empty(shape))
        self.terms = nn.Parameter(torch.empty(order + 1 - first, width, expanded))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None

    def forward(self, h: torch.Tensor, carried: torch.Tensor | None = None) -> torch.Tensor:
        """The block's output, from what `TaylorUp` gives and what a gate multiplies."""
        sizes = [self.ordinary, self.expanded]
        h, t = h.split(sizes, -1)
        u = None
        if carried is not None:
            carried, u = carried.split(sizes, -1)
            h = h * carried
        y = nn.functional.linear(h, self.weight.T if self.transposed else self.weight, self.bias)
        # Powers cancel each other, so that half precision would lose what is left of them.
        wide = torch.promote_types(t.dtype, torch.float32)
        t = t.to(wide)
        power = t if self.first else torch.ones_like(t)
        total = y.to(wide)
        for term in self.terms:
            part = power if u is None else power * u
            total = total + nn.functional.linear(part.to(wide), term.to(wide))
            power = power * t
        return total.to(y.dtype)


class TaylorGated(nn.Module):
    """A gated FFN with its gate unfolded; modules keep the names they have in the stock one."""

    def __init__(self, gate_proj: TaylorUp, up_proj: nn.Module, down_proj: TaylorDown) -> None:
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = gate_proj, up_proj, down_proj

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The block's output."""
        out: torch.Tensor = self.down_proj(self.gate_proj(x), self.up_proj(x))
        return out


def exchange(model: Any, section: Mapping[str, Any]) -> None:
    """Exchanges the FFN layers of a stock model; layers without expanded neurons stay.

    Args:
        model: of a class of transformers.
        section: what its config holds under "mergebarrier".
    """
    known = family_of(section["model_type"], model.config.to_dict())
    if known is None:
        raise ValueError(f"no FFN is known for {section['model_type']!r}")
    family, activation = known
    trunk = getattr(model, model.base_model_prefix, model)
    first, flip = 0 if family.block else 1, family.transposed
    for layer, expanded in enumerate(section["expanded"]):
        if not expanded:
            continue
        old_up = trunk.get_submodule(family.up.format(layer))
        old_down = trunk.get_submodule(family.down.format(layer))
        if isinstance(old_up, TaylorUp):
            continue  # the trunk was made by this module, too
        neurons, width = reversed(old_up.weight.shape) if flip else old_up.weight.shape
        up = TaylorUp(width, neurons, expanded, activation, flip, section["clamp"])
        bias = old_down.bias is not None
        down = TaylorDown(width, neurons, expanded, section["order"], flip, first, bias)
        if family.block:
            carried = trunk.get_submodule(family.carried.format(layer))
            trunk.set_submodule(family.block.format(layer), TaylorGated(up, carried, down))
        else:
            trunk.set_submodule(family.up.format(layer), up)
            trunk.set_submodule(family.act.format(layer), nn.Identity())
            trunk.set_submodule(family.down.format(layer), down)


def __getattr__(name: str) -> Any:
    """Makes `MergeBarrierLlamaForCausalLM` of `LlamaForCausalLM`, and the like, when asked for."""
    stock: Any = getattr(transformers, name.removeprefix(PREFIX), None)
    if not name.startswith(PREFIX) or stock is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    inside: dict[str, Any] = {
        "__module__": __name__,
        "__doc__": f"{stock.__name__} with unfolded FFNs.",
    }
    if issubclass(stock, transformers.PreTrainedConfig):
        inside["model_type"] = f"{SECTION}_{stock.model_type}"
    else:
        config_name = PREFIX + stock.config_class.__name__
        inside["config_class"] = globals().get(config_name) or __getattr__(config_name)

        def build(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
            stock.__init__(self, config, *args, **kwargs)
            exchange(self, config.mergebarrier)

        inside["__init__"] = build
    made = globals()[name] = type(name, (stock,), inside)
    bare = name.removesuffix("Config") + "Model"
    if issubclass(stock, transformers.PreTrainedConfig):
        # Some stock classifiers make their trunk through AutoModel, which must know it by then.
        transformers.AutoModel.register(made, __getattr__(bare), exist_ok=True)
    return made
