"""SMILE (Tang et al., arXiv:2408.10174): sparse mixture of low-rank experts from fine-tuned models.

Every linear layer keeps the base's weight and gets, per model, the k largest singular triplets of
its task matrix. Each token goes to the model whose leading right singular vectors see most of it:
softmax over ‖V_{gate_k}ᵀ x‖, the top_k of these, renormalised (section 4). With k = -1 the whole
task matrix is added, so that a token gets exactly the chosen model's layer. Biases of linear layers
follow their layer. All else stays the base's, as in the authors' code, or is averaged if asked.

Defaults are those of the paper's ViT-B/32 experiments. The routing is a hook on each layer's
module, so the network keeps its modules and names. With a full k, the chosen models' layers are
applied as they are: the coefficients sum to 1, so that is the same sum without its cancellation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unmergeable.errors import InputError
from unmergeable.merging.linear_layers import linear_layers, owner
from unmergeable.merging.method import Ingredients, Merged, MergeMethod
from unmergeable.merging.svd import leading
from unmergeable.merging.task_vectors import Computed, check, deltas, finite, made_at_once, mean
from unmergeable.models.weights import as_float32

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class _Expert:
    """One model's part of a layer: what it adds to the layer, and its gate.

    Attributes:
        gate: right singular vectors, shape (gate_k, in).
        down: shape (k, in), or (out, in) for a whole weight.
        up: shape (out, k), or None for a whole weight.
        bias: what it adds to the bias, or the whole bias for a whole weight.
    """

    gate: torch.Tensor
    down: torch.Tensor
    up: torch.Tensor | None
    bias: torch.Tensor | None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        import torch

        linear = torch.nn.functional.linear
        bias = None if self.bias is None else self.bias.to(x)
        if self.up is None:
            return linear(x, self.down.to(x), bias)
        return linear(linear(x, self.down.to(x)), self.up.to(x), bias)


def merge(
    ingredients: Ingredients, *, k: int, gate_k: int, top_k: int, average_rest: bool
) -> Merged:
    """Builds the routed layers.

    Args:
        ingredients: weights alone.
        k: rank of each model's part of a layer; -1 for all of it.
        gate_k: how many right singular vectors a gate looks at.
        top_k: how many models a token goes to.
        average_rest: whether tensors outside linear layers are averaged, not kept from the base.
    """
    check(ingredients)
    count = len(ingredients.models)
    if not (k == -1 or k >= 1) or gate_k < 1 or not 1 <= top_k <= count:
        raise InputError(
            f"smile got k={k}, gate_k={gate_k}, top_k={top_k}: k is -1 or 1 and more, gate_k 1 and "
            f"more, top_k from 1 to the number of models ({count})."
        )
    linears = linear_layers(ingredients.layout)
    biases = {linear.bias for linear in linears.values()}

    def layer(name: str) -> list[_Expert]:
        changes = deltas(ingredients, name)
        if not any(delta.any() for delta in changes):
            return []
        transposed = linears[name].transposed
        return [
            _expert(ingredients, index, name, delta, transposed, k, gate_k)
            for index, delta in enumerate(changes)
        ]

    made = made_at_once(Computed([n for n in ingredients.base if n in linears], layer))
    layers = {name: experts for name, experts in made.items() if experts}
    state = {}
    for name, tensor in ingredients.base.items():
        state[name] = as_float32(tensor)  # shared with the base, for it is not changed
        kept = name in linears or name in biases or not average_rest
        if tensor.is_floating_point() and not kept:
            state[name] = finite(state[name] + mean(deltas(ingredients, name)), name)

    def rewire(model: torch.nn.Module) -> Callable[[], None]:
        handles = [
            owner(model, name).register_forward_hook(_hook(experts, top_k, whole=k == -1))
            for name, experts in layers.items()
        ]

        def undo() -> None:
            for handle in handles:
                handle.remove()

        return undo

    return Merged(state, rewire=rewire)


def _expert(
    ingredients: Ingredients,
    index: int,
    name: str,
    delta: torch.Tensor,
    transposed: bool,
    k: int,
    gate_k: int,
) -> _Expert:
    model, base = ingredients.models[index], ingredients.base
    delta = delta.T if transposed else delta
    bias_name = name.removesuffix("weight") + "bias"
    bias = model[bias_name].float() if bias_name in model else None
    if not delta.any():  # this model did not touch the layer: its gate sees nothing
        u, s, vh = delta[:, :1], delta[0, :1], delta[:1]
    else:
        u, s, vh = leading(delta, min(max(k, gate_k), *delta.shape))
    # copies: a slice would keep the whole decomposition in memory
    gate = vh[:gate_k].clone()
    if k == -1:
        weight = model[name].float()
        return _Expert(gate, weight.T if transposed else weight, None, bias)
    if bias is not None:
        bias = bias - base[bias_name].float()
    return _Expert(gate, vh[:k].clone(), u[:, :k] * s[:k], bias)


def _hook(experts: list[_Expert], top_k: int, *, whole: bool) -> Callable[..., torch.Tensor]:
    """A forward hook that adds the chosen models' parts, or puts their whole layers in place."""
    import torch

    def routed(module: torch.nn.Module, given: tuple[Any, ...], out: torch.Tensor) -> torch.Tensor:
        x = given[0].reshape(-1, given[0].shape[-1])
        seen = torch.stack([(x @ e.gate.to(x).T).norm(dim=1) for e in experts], 1)
        shares, chosen = seen.softmax(1).topk(top_k, dim=1)
        shares = shares / shares.sum(1, keepdim=True)
        flat = out.reshape(-1, out.shape[-1])
        mixed = torch.zeros_like(flat) if whole else flat.clone()
        for index, expert in enumerate(experts):
            rows, place = (chosen == index).nonzero(as_tuple=True)
            if len(rows):
                part = expert(x[rows]) * shares[rows, place, None]
                mixed = mixed.index_add(0, rows, part)
        return mixed.reshape(out.shape)

    return routed


SMILE = MergeMethod(
    "smile",
    "SMILE",
    "arXiv:2408.10174",
    merge,
    {"k": 32, "gate_k": 16, "top_k": 1, "average_rest": False},
    deploys="network",
)
