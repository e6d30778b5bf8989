"""Large tensors through mergekit piece by piece, for it needs many times a tensor's memory.

A method that merges every number for itself gives the same bits on pieces. Those of task arithmetic
look at a whole task vector only to drop numbers from it: mergekit's own function does that here, a
model at a time, and mergekit then merges what is left in pieces, told to keep all of it. Methods
that measure angles or lengths of whole tensors are left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from unmergeable.extras import optional

if TYPE_CHECKING:
    import torch

PIECE = 1 << 20  # numbers
_EACH_NUMBER = frozenset({"linear", "nearswap", "ram"})

# From one model's tensors at a place, the base's first if there is one, and parameters to a merge.
Merge = Callable[[Sequence["torch.Tensor"], Mapping[str, Any]], "torch.Tensor"]


def suited(method: str, tensors: Sequence[torch.Tensor], base_index: int | None) -> bool:
    """Whether a method gives the same bits on pieces of these tensors."""
    first = tensors[0]
    same = all((tensor.dtype, tensor.shape) == (first.dtype, first.shape) for tensor in tensors)
    return (
        same
        and first.ndim > 1
        and (method in _EACH_NUMBER or (base_index is not None and _drops(method)))
    )


def merge_in_pieces(
    merge: Merge,
    tensors: Sequence[torch.Tensor],
    method: str,
    base_index: int | None,
    parameters: Mapping[str, Any],
) -> torch.Tensor:
    """Merges tensors that `suited` accepts.

    Args:
        merge: merges pieces of them by the method.
        tensors: one per model.
        method: of mergekit.
        base_index: which of them is the base.
        parameters: of the method; known to suit it.

    Returns:
        What the method makes of the whole tensors, to the bit but for the sign of zeros.
    """
    import torch

    base = None if base_index is None else tensors[base_index].reshape(-1)
    if base is not None and _sparsification(method) is not None:
        models = [tensor for index, tensor in enumerate(tensors) if index != base_index]
        inputs = _sparse(models, tensors[base_index or 0], method, parameters)
        anchor, parameters = base, {**parameters, "density": 1.0}
        inputs.insert(base_index or 0, torch.zeros(PIECE, dtype=base.dtype, device=base.device))
    else:
        inputs, anchor = [tensor.reshape(-1) for tensor in tensors], None
    out = torch.empty_like(tensors[0], memory_format=torch.contiguous_format)
    flat = out.view(-1)
    for start in range(0, len(flat), PIECE):
        size = min(PIECE, len(flat) - start)
        pieces = [
            each[:size] if anchor is not None and index == base_index else each[start:][:size]
            for index, each in enumerate(inputs)
        ]
        merged = merge(pieces, parameters)
        flat[start : start + size] = (
            merged if anchor is None else anchor[start : start + size] + merged
        )
    return out


def _sparse(
    models: Sequence[torch.Tensor],
    base: torch.Tensor,
    method: str,
    parameters: Mapping[str, Any],
) -> list[torch.Tensor]:
    """Each model's task vector after the method has dropped numbers, in turn as mergekit does."""
    sparsify = optional("mergekit.sparsify")
    given = {p.name: p.default for p in _method(method).spec.parameters if not p.required}
    given.update(parameters)
    norm = sparsify.RescaleNorm.l1 if given["rescale"] else None

    def own(name: str, index: int) -> float:
        value = given[name]
        return float(value[index] if isinstance(value, Sequence) else value)

    names = [name for name in ("density", "gamma", "epsilon") if name in given]
    return [
        sparsify.sparsify(
            model - base,
            method=_sparsification(method),
            rescale_norm=norm,
            **{name: own(name, index) for name in names},
        ).reshape(-1)
        for index, model in enumerate(models)
    ]


def _drops(method: str) -> bool:
    return isinstance(
        _method(method), optional("mergekit.merge_methods").GeneralizedTaskArithmeticMerge
    )


def _sparsification(method: str) -> Any:
    return getattr(_method(method), "sparsification_method", None)


def _method(name: str) -> Any:
    return optional("mergekit.merge_methods").get(name)
