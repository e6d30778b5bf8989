"""The bridge to mergekit (LGPL-3.0, imported, never copied): its methods on tensors in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unmergeable.errors import InputError
from unmergeable.extras import optional
from unmergeable.machine import cores
from unmergeable.merging.mergekit_pieces import merge_in_pieces, sorts, suited
from unmergeable.merging.method import Parameter
from unmergeable.models.device import is_lost, is_short_of_memory

if TYPE_CHECKING:
    import torch

# The methods that draw nothing: only their tensors may be merged at the same time, for torch's
# random state is one for all threads. A method that a newer mergekit brings is taken to draw.
_PLAIN = frozenset(
    {
        "arcee_fusion",
        "breadcrumbs",
        "breadcrumbs_ties",
        "karcher",
        "linear",
        "model_stock",
        "multislerp",
        "nearswap",
        "nuslerp",
        "passthrough",
        "ram",
        "ramplus_tl",
        "sce",
        "slerp",
        "task_arithmetic",
        "ties",
    }
)
# Numbers in a tensor that is merged by itself, and in pieces where that gives the same bits, for
# mergekit needs up to twenty times its memory.
_LARGE = 1 << 24
# And in one from which on selecting magnitudes, in such a merge, takes less time than sorting them.
_SELECTED = 1 << 16


@dataclass(frozen=True)
class Method:
    """A merge method of mergekit.

    Attributes:
        name: as mergekit registers it.
        base: "required", "optional", or "" where a base plays no part.
        inputs: how many models it takes, base included; None for any number.
        settings: what can be set.
        paper: its arXiv number, if it has one.
    """

    name: str
    base: str
    inputs: int | None
    settings: Mapping[str, Parameter]
    paper: str = ""


def methods() -> dict[str, Method]:
    """All methods of the installed mergekit, by name."""
    found = {}
    for spec in sorted((m.spec for m in _mergekit().registered_methods()), key=lambda s: s.name):
        policy = spec.contract.base.value
        paper = (spec.reference_url or "").partition("arxiv.org/abs/")[2]
        found[spec.name] = Method(
            spec.name,
            policy if policy in ("required", "optional") else "",
            spec.contract.max_inputs,
            {
                p.name: Parameter(
                    p.description or "",
                    None if p.required else p.default,
                    per_model=p.scope.value != "shared",
                    required=p.required,
                )
                for p in spec.parameters
            },
            "arXiv " + paper if paper else "",
        )
    return found


def merge_tensors(
    tensors: Sequence[torch.Tensor],
    method: str,
    *,
    base_index: int | None = None,
    parameters: Mapping[str, Any] | None = None,
    name: str = "",
    seed: int = 0,
) -> torch.Tensor:
    """Merges what stands at one place in several models.

    Args:
        tensors: one per model, equal shapes, float32 or wider.
        method: a name from `methods()`.
        base_index: which of them is the base.
        parameters: the method's; per-model ones as sequences in the order of `tensors`.
        name: of the tensor, for messages and for what it draws.
        seed: of the methods that draw at random.

    Returns:
        The merged tensor, in the inputs' dtype.

    Raises:
        InputError: an unknown method, or one that these inputs or parameters do not suit.
    """
    import torch

    kit = _mergekit()
    method_named(method)
    chosen = dict(parameters or {})

    def merge(pieces: Sequence[torch.Tensor], parameters: Mapping[str, Any]) -> torch.Tensor:
        merged: torch.Tensor = kit.merge_tensors(
            pieces, method, parameters=parameters, base_index=base_index, name=name
        )
        return merged

    try:
        with torch.no_grad():
            enough = _SELECTED if sorts(method) else _LARGE
            pieces = tensors[0].numel() > enough and suited(method, tensors, base_index)
            if pieces:  # see first, on a row, that the parameters suit the method
                merge([tensor[:1] for tensor in tensors], chosen)
            if method not in _PLAIN:
                drawn = hashlib.sha256(f"{seed} {name}".encode()).digest()[:8]
                torch.manual_seed(int.from_bytes(drawn))
            if pieces:
                return merge_in_pieces(merge, tensors, method, base_index, chosen)
            return merge(tensors, chosen)
    except (ValueError, TypeError, KeyError, RuntimeError) as error:
        if is_short_of_memory(error) or is_lost(error):  # says nothing of the merge
            raise
        raise InputError(f"{method} cannot merge {name or 'these tensors'}: {error}") from None


def merge_state_dicts(
    models: Sequence[Mapping[str, torch.Tensor]],
    method: str,
    *,
    base: Mapping[str, torch.Tensor] | None = None,
    parameters: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> dict[str, torch.Tensor]:
    """Merges whole models in memory, tensor by tensor.

    Args:
        models: their state dicts: the same names and shapes.
        method: a name from `methods()`.
        base: the model that task vectors are taken from, for the methods that need one.
        parameters: the method's; per-model ones as sequences in the order of `models`.
        seed: of the methods that draw at random; each tensor's draws depend on it and on its name.

    Returns:
        The merged tensors; buffers of whole numbers are the first model's.

    Raises:
        InputError: an unknown method, or one that these inputs or parameters do not suit.
    """
    method_named(method)
    inputs = [*([] if base is None else [base]), *models]

    def one(name: str) -> torch.Tensor:
        tensors = [state[name] for state in inputs]
        if not tensors[0].is_floating_point():
            return models[0][name]
        return merge_tensors(
            tensors,
            method,
            base_index=None if base is None else 0,
            parameters=parameters,
            name=name,
            seed=seed,
        )

    names = list(models[0])
    sizes = {name: inputs[-1 if base is None else 0][name].numel() for name in names}
    # the large ones first, while little else of the merge is there
    alone = [name for name in names if sizes[name] > _LARGE]
    alone += [name for name in names if method not in _PLAIN and name not in alone]
    merged = {name: one(name) for name in alone}
    rest = [name for name in names if name not in merged]
    with ThreadPoolExecutor(cores()) as pool:  # each has memory of its own
        merged.update(zip(rest, pool.map(one, rest), strict=True))
    return {name: merged[name] for name in names}


def method_named(name: str) -> Method:
    """A method by its name.

    Raises:
        InputError: mergekit has no such method.
    """
    known = methods()
    if name not in known:
        raise InputError(f"no merge method {name!r}; there is {', '.join(known)}.")
    return known[name]


def _mergekit() -> Any:
    return optional("mergekit.merge_methods")
