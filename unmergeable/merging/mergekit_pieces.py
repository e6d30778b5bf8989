"""Tensors through mergekit piece by piece, for it needs many times a tensor's memory, or sorts.

A method that merges every number for itself gives the same bits on pieces. Those of task arithmetic
look at a whole task vector only to drop numbers from it: that is done here, a model at a time, by
selection where mergekit sorts and by its own function where it draws; mergekit then merges what is
left in pieces, told to keep all of it. RAM+ looks at a whole only to count where task vectors
overlap: counted here, its factors are applied before mergekit merges in pieces, told to use none.
Methods that measure angles or lengths of whole tensors are left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from unmergeable.extras import optional
from unmergeable.merging.magnitudes import drop_outside

if TYPE_CHECKING:
    import torch

PIECE = 1 << 20  # numbers
_EACH_NUMBER = frozenset({"linear", "nearswap", "ram"})
_RAM_PLUS = "ramplus_tl"
# mergekit's ways to drop numbers by their magnitude; the others draw.
_SORTED = frozenset({"magnitude", "magnitude_outliers"})

# From one model's tensors at a place, the base's first if there is one, and parameters to a merge.
Merge = Callable[[Sequence["torch.Tensor"], Mapping[str, Any]], "torch.Tensor"]


def suited(method: str, tensors: Sequence[torch.Tensor], base_index: int | None) -> bool:
    """Whether a method gives the same bits on pieces of these tensors."""
    first = tensors[0]
    same = all((tensor.dtype, tensor.shape) == (first.dtype, first.shape) for tensor in tensors)
    return (
        same
        and first.ndim > 1
        and (method in _EACH_NUMBER or (base_index is not None and _looks_first(method)))
    )


def sorts(method: str) -> bool:
    """Whether a method drops numbers by their magnitude, which mergekit sorts for."""
    way = _sparsification(method)
    return way is not None and way.value in _SORTED


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
        What the method makes of the whole tensors, to the bit but for the sign of zeros and for
        the choice among equal magnitudes at the end of what is kept.
    """
    import torch

    base = None if base_index is None else tensors[base_index].reshape(-1)
    if base is not None and (_sparsification(method) is not None or method == _RAM_PLUS):
        models = [tensor for index, tensor in enumerate(tensors) if index != base_index]
        before, done = (
            (_raised, {"r": 0.0, "epsilon": 0.0})
            if method == _RAM_PLUS
            else (_sparse, {"density": 1.0})
        )
        inputs = before(models, tensors[base_index or 0], method, parameters)
        anchor, parameters = base, {**parameters, **done}
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
    given = _given(method, parameters)
    way = _sparsification(method)
    names = [name for name in ("density", "gamma", "epsilon") if name in given]

    def dropped(index: int) -> torch.Tensor:
        own = {
            name: float(value[index] if isinstance(value, Sequence) else value)
            for name, value in ((name, given[name]) for name in names)
        }
        vector = models[index] - base
        if sorts(method) and vector.device.type == "cpu":
            ranks = _ranks(vector.numel(), way.value, **own)
            kept = drop_outside(vector, *ranks, rescale=given["rescale"]) if ranks else vector
        else:
            norm = sparsify.RescaleNorm.l1 if given["rescale"] else None
            kept = sparsify.sparsify(vector, method=way, rescale_norm=norm, **own)
        return kept.reshape(-1)

    return [dropped(index) for index in range(len(models))]


def _ranks(count: int, way: str, density: float, gamma: float = 0.0) -> tuple[int, int] | None:
    """The ranks by magnitude, the smallest first, that mergekit keeps; None for all of them."""
    if density >= 1:
        return None
    kept = int(density * count)
    if way == "magnitude":
        return count - (max(1, kept) if density > 0 else 0), count
    lowest = max(0, count - kept - int(gamma * count))
    return lowest, lowest + kept


def _raised(
    models: Sequence[torch.Tensor],
    base: torch.Tensor,
    method: str,
    parameters: Mapping[str, Any],
) -> list[torch.Tensor]:
    """Each model's task vector, raised by RAM+'s factor where it is alone, 0 where it hardly moves.

    The factor is 1 + r clamp(shared / alone, 0, alpha), from how many numbers a model moves
    together with another one and how many alone (arXiv 2601.13572, a tensor at a time as in
    mergekit).
    """
    import torch

    given = _given(method, parameters)
    vectors = [(model - base).reshape(-1) for model in models]

    def moved(start: int) -> tuple[torch.Tensor, torch.Tensor]:
        each = torch.stack(
            [vector[start : start + PIECE].abs() > given["epsilon"] for vector in vectors]
        )
        return each, each.sum(dim=0)

    shared = torch.zeros(len(vectors), dtype=torch.int64, device=base.device)
    alone = torch.zeros_like(shared)
    starts = range(0, base.numel(), PIECE)
    for start in starts:
        each, count = moved(start)
        shared += (each & (count > 1)).sum(dim=1)
        alone += (each & (count == 1)).sum(dim=1)
    ratio = shared / alone.clamp(min=given["epsilon"])
    factors = 1 + given["r"] * ratio.clamp(min=0, max=given["alpha"])
    for start in starts:
        each, count = moved(start)
        for vector, factor, there in zip(vectors, factors, each, strict=True):
            piece = vector[start : start + PIECE]
            piece *= there
            piece[there & (count == 1)] *= factor
    return vectors


def _given(method: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a method, with mergekit's defaults."""
    spec = _method(method).spec
    return {p.name: p.default for p in spec.parameters if not p.required} | dict(parameters)


def _looks_first(method: str) -> bool:
    """Whether a method looks at whole task vectors, then merges every number for itself."""
    kit = optional("mergekit.merge_methods")
    return method == _RAM_PLUS or isinstance(_method(method), kit.GeneralizedTaskArithmeticMerge)


def _sparsification(method: str) -> Any:
    return getattr(_method(method), "sparsification_method", None)


def _method(name: str) -> Any:
    return optional("mergekit.merge_methods").get(name)
