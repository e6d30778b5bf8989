"""Task vectors, tensor by tensor: what every method of our own starts from.

Whole task vectors are never held: a model of our own size has hundreds of millions of numbers, and
each method needs one tensor's at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from unmergeable.errors import InputError
from unmergeable.machine import cores
from unmergeable.merging.method import Ingredients, State

if TYPE_CHECKING:
    import torch

Made = TypeVar("Made")
# From a tensor's name and the models' task vectors there to the merged task vector.
MergeOne = Callable[[str, "list[torch.Tensor]"], "torch.Tensor"]


def check(ingredients: Ingredients) -> None:
    """Sees that the models can be merged at all.

    Raises:
        InputError: no model, or tensors that differ in name or shape.
    """
    if not ingredients.models:
        raise InputError("there is no model to merge: give one or more.")
    base = ingredients.base
    for number, model in enumerate(ingredients.models, 1):
        for name in sorted(base.keys() | model.keys()):
            ours, theirs = (
                tuple(state[name].shape) if name in state else "absent" for state in (base, model)
            )
            if ours != theirs:
                raise InputError(
                    f"model {number} cannot be merged: {name!r} is {theirs} there and {ours} in "
                    "the base."
                )


def floating(state: State) -> list[str]:
    """The tensors that can be merged; position ids and masks cannot."""
    return [name for name, tensor in state.items() if tensor.is_floating_point()]


def deltas(ingredients: Ingredients, name: str) -> list[torch.Tensor]:
    """The models' task vectors of one tensor, float32.

    Raises:
        InputError: numbers that are not finite.
    """
    base = ingredients.base[name].float()
    return [finite(model[name].float() - base, name) for model in ingredients.models]


def finite(tensor: torch.Tensor, name: str) -> torch.Tensor:
    """The tensor itself.

    Raises:
        InputError: numbers that are not finite.
    """
    if not tensor.isfinite().all():
        raise InputError(
            f"{name} holds numbers that are not finite, in an input or by overflow of float32 on "
            "the way: this merge is undefined."
        )
    return tensor


def added(ingredients: Ingredients, merge_one: MergeOne) -> dict[str, torch.Tensor]:
    """The base plus a merged task vector, tensor by tensor; buffers of whole numbers stay.

    Raises:
        InputError: as `check`; numbers that are not finite.
    """
    return made_at_once(lazily_added(ingredients, merge_one))


def made_at_once(computed: Computed[Made]) -> dict[str, Made]:
    """All values of a mapping, as many at a time as there are processors.

    The decompositions that merges are made of keep one processor busy, hardly two.
    """
    with ThreadPoolExecutor(cores()) as pool:
        return dict(zip(computed, pool.map(computed.__getitem__, computed), strict=True))


def lazily_added(ingredients: Ingredients, merge_one: MergeOne) -> Computed[torch.Tensor]:
    """The same, each tensor made again whenever it is asked for.

    Raises:
        InputError: as `check`; later, numbers that are not finite.
    """
    check(ingredients)

    def make(name: str) -> torch.Tensor:
        tensor = ingredients.base[name]
        if not tensor.is_floating_point():
            return tensor.clone()
        change = merge_one(name, deltas(ingredients, name))
        return finite(tensor.float() + change, name)

    return Computed(ingredients.base, make)


def coefficients(weight: Any, count: int) -> list[float]:
    """One coefficient per model.

    Args:
        weight: a number, or one per model.
        count: of the models.

    Raises:
        InputError: neither.
    """
    given = [weight] * count if isinstance(weight, int | float) else weight
    if (
        not isinstance(given, Sequence)
        or len(given) != count
        or not all(isinstance(number, int | float) for number in given)
    ):
        raise InputError(
            f"weight is {weight!r}: give one number, or one for each of the {count} models."
        )
    return [float(number) for number in given]


def total(parts: Sequence[torch.Tensor], weights: Iterable[float]) -> torch.Tensor:
    """The sum of tensors, each times its weight, as a new tensor."""
    import torch

    out = torch.zeros_like(parts[0])
    for part, weight in zip(parts, weights, strict=True):
        out.add_(part, alpha=weight)
    return out


def mean(parts: Sequence[torch.Tensor], weights: Sequence[float] | None = None) -> torch.Tensor:
    """The average of tensors, each times its weight (default: 1)."""
    return total(parts, weights or [1.0] * len(parts)) / len(parts)


class Computed(Mapping[str, Made]):
    """A mapping whose values are made when they are asked for, such as a state's tensors.

    Methods that deploy a model per task would need one more copy of everything for each.
    """

    def __init__(self, names: Iterable[str], make: Callable[[str], Made]) -> None:
        self._names, self._make = dict.fromkeys(names), make

    def __getitem__(self, name: str) -> Made:
        if name not in self._names:
            raise KeyError(name)
        return self._make(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)
