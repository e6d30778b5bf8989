"""Which tensors are linear layers, which of their axes reads, and what they read."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unmergeable.architectures.layout import Layout
from unmergeable.errors import InputError
from unmergeable.gauge.notation import Atom, Axis, Concatenation, Product
from unmergeable.merging.method import Corpus, Ingredients

if TYPE_CHECKING:
    import torch

# Tables are looked up, not multiplied with; and a merge that treats the output head as linear would
# part it from the embeddings that it is often tied to.
_TABLES = frozenset({"vocab", "position"})


@dataclass(frozen=True)
class Linear:
    """A linear layer's weight.

    Attributes:
        name: of the tensor.
        transposed: whether it is stored (in, out), as GPT-2's are.
    """

    name: str
    transposed: bool

    def matrix(self, weight: torch.Tensor) -> torch.Tensor:
        """The weight as (out, in); a view. Applied to such a matrix, the weight as stored."""
        return weight.T if self.transposed else weight

    @property
    def bias(self) -> str:
        """The name that the layer's bias would have."""
        return self.name.removesuffix("weight") + "bias"


def linear_layers(layout: Layout) -> dict[str, Linear]:
    """The linear layers of a model, by the name of their weights.

    The architecture's declaration tells: a matrix with an axis that reads, and no table. Keys are
    declared as the dual side of the queries' space, so both their axes are starred: of two such
    axes, the one whose space is not divided among heads is what the layer reads.
    """
    found = {}
    for name, placement in layout.placements.items():
        axes = placement.rule.axes
        if len(axes) != 2 or _TABLES & {space for axis in axes for space in axis.names()}:
            continue
        reading = [i for i, axis in enumerate(axes) if _reads(axis)]
        if reading:
            divided = [len(_per(axis, layout)) for axis in axes]
            source = min(reading, key=lambda i: (divided[i], -i))
            found[name] = Linear(name, transposed=source == 0)
    return found


def owner(model: torch.nn.Module, name: str) -> torch.nn.Module:
    """The module that owns a tensor, by the tensor's name in a folder.

    Folders of one architecture differ in whether names begin with the trunk's prefix.

    Raises:
        InputError: the model has no such tensor.
    """
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    for spelling in (name, prefix + name, name.removeprefix(prefix)):
        path, _, last = spelling.rpartition(".")
        try:
            module = model.get_submodule(path)
        except AttributeError:
            continue
        if module._parameters.get(last) is not None:
            return module
    raise InputError(f"{type(model).__name__} has no tensor {name!r}.")


def grams(ingredients: Ingredients, index: int, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """What linear layers of one model read on its own inputs: the mean of x xᵀ over all tokens.

    Args:
        ingredients: runner and corpora included.
        index: of the model.
        names: of the layers' weights.

    Returns:
        By weight: float32, shape (in, in). Layers that read the same thing share a tensor.
    """
    sums: list[torch.Tensor] = []
    counts: list[int] = []
    group: dict[str, int] = {}
    last: list[Any] = [None, 0]  # what was read last, and its place in `sums`

    def look(name: str, x: torch.Tensor, out: torch.Tensor, keep: torch.Tensor | None) -> None:
        if x is last[0]:  # queries, keys and values read the same thing, one after the other
            group.setdefault(name, last[1])
            return
        number = group.setdefault(name, len(sums))
        last[:] = x, number
        rows = (x if keep is None else x[keep]).reshape(-1, x.shape[-1]).float()
        if number == len(sums):
            sums.append(rows.T @ rows)
            counts.append(len(rows))
        else:
            sums[number].addmm_(rows.T, rows)
            counts[number] += len(rows)

    visit(ingredients, index, names, look)
    for gram, count in zip(sums, counts, strict=True):
        gram /= max(count, 1)
    return {name: sums[number] for name, number in group.items()}


def visit(
    ingredients: Ingredients,
    index: int,
    names: Iterable[str],
    look: Callable[[str, torch.Tensor, torch.Tensor, torch.Tensor | None], None],
) -> None:
    """Runs one model on its own inputs and shows what the owners of tensors read and write.

    Args:
        ingredients: runner and corpora included.
        index: of the model.
        names: of the tensors.
        look: called with a tensor's name, what its module read, what it wrote, and which of the
            leading positions are no padding (None where the batch does not say, or the shapes
            differ).
    """
    import torch

    runner, corpus = running(ingredients)[0], ingredients.corpora[index]
    runner.load_state(ingredients.models[index])
    real: list[Any] = [None]

    def hook(name: str) -> Callable[..., None]:
        def after(module: torch.nn.Module, given: tuple[Any, ...], out: torch.Tensor) -> None:
            x, keep = given[0], real[0]
            look(name, x, out, keep if keep is not None and x.shape[:-1] == keep.shape else None)

        return after

    handles = [owner(runner.model, name).register_forward_hook(hook(name)) for name in names]
    try:
        with torch.no_grad():
            for batch in corpus.batches:
                mask = batch.inputs.get("attention_mask")
                real[0] = None if mask is None else mask.bool().to(runner.device)
                corpus.task.logits(runner.model, batch)
    finally:
        for handle in handles:
            handle.remove()


def running(ingredients: Ingredients) -> tuple[Any, tuple[Corpus, ...]]:
    """The runner and the corpora of a method that needs inputs.

    Raises:
        InputError: there is no runner, or not one corpus per model, or an empty one.
    """
    if ingredients.runner is None:
        raise InputError("this merge method runs the models, and no runner was given to run them.")
    if len(ingredients.corpora) != len(ingredients.models):
        raise InputError(
            f"this merge method needs inputs of each model's task: {len(ingredients.models)} "
            f"models, {len(ingredients.corpora)} corpora."
        )
    for number, corpus in enumerate(ingredients.corpora, 1):
        if not corpus.batches:
            raise InputError(f"corpus {number} ({corpus.task.name}) has no inputs.")
    return ingredients.runner, tuple(ingredients.corpora)


def _reads(axis: Axis) -> bool:
    if isinstance(axis, Atom):
        return axis.side == "read"
    if isinstance(axis, Concatenation):
        return all(_reads(part) for part in axis.parts)
    return isinstance(axis, Product) and _reads(axis.inner)


def _per(axis: Axis, layout: Layout) -> tuple[str, ...]:
    """The index spaces that select an instance of an axis' innermost space."""
    if isinstance(axis, Atom):
        return layout.spaces[axis.name].per
    if isinstance(axis, Concatenation):
        return max((_per(part, layout) for part in axis.parts), key=len)
    return _per(axis.inner if isinstance(axis, Product) else axis.axis, layout)
