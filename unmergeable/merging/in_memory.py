"""Our own weight-only methods on model folders: everything is read, merged, and handed back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unmergeable.architectures.layout import Layout
from unmergeable.checkpoint.header import TensorEntry
from unmergeable.checkpoint.reader import TensorReader
from unmergeable.errors import InputError
from unmergeable.gauge.memory import Bytes
from unmergeable.merging import mergekit_bridge
from unmergeable.merging.mergekit_bridge import Method
from unmergeable.merging.method import Ingredients, MergeMethod, Parameter, State
from unmergeable.merging.methods import methods
from unmergeable.models.weights import as_float32, stored

if TYPE_CHECKING:
    import torch

# Why a method cannot make a model folder.
_DEPLOYS = {
    "model per task": "deploys one model for each task",
    "network": "deploys another network than the base's",
}


@dataclass(frozen=True)
class InMemory:
    """One of our own methods, for folders."""

    method: MergeMethod

    @property
    def contract(self) -> Method:
        """What it takes, in the terms of mergekit's methods."""
        settings = {
            name: one if isinstance(one, Parameter) else Parameter(one.help, one.default, one.auto)
            for name, one in self.method.settings.items()
        }
        return Method(self.method.name, "required", None, settings, self.method.paper)

    def merge(
        self,
        readers: Sequence[TensorReader],
        read: Callable[[TensorReader, str], tuple[Bytes, TensorEntry]],
        layout: Layout,
        parameters: Mapping[str, Any],
        seed: int,
    ) -> State:
        """Reads all models, the base first, and merges them.

        Args:
            readers: of the base and the models.
            read: a tensor's bytes in the coordinates of the merge, and how they are stored.
            layout: which axis of which tensor is what; has all tensors to merge.
            parameters: of the method.
            seed: of what the method draws.

        Raises:
            InputError: parameters or models that do not suit the method.
        """

        def state(reader: TensorReader) -> dict[str, torch.Tensor]:
            return {name: as_float32(stored(*read(reader, name))) for name in layout.placements}

        base, *models = map(state, readers)
        try:
            return self.method(Ingredients(models, base, layout, seed=seed), **parameters).state
        except (TypeError, ValueError) as error:
            raise InputError(f"{self.method.name} cannot merge these models: {error}") from None


def method_named(name: str) -> InMemory | None:
    """One of our own methods by its name; None if it is mergekit's.

    Raises:
        InputError: nobody has such a method, or it cannot make a folder.
    """
    known = methods()
    if name not in known:
        theirs = mergekit_bridge.methods()
        if name not in theirs:
            listed = ", ".join([*theirs, *(n for n in known if not refusal(known[n]))])
            raise InputError(f"no merge method {name!r}; there is {listed}.")
        return None
    if why := refusal(known[name]):
        raise InputError(f"{name} {why}: `unmergeable audit` runs it.")
    return InMemory(known[name])


def refusal(method: MergeMethod) -> str:
    """Why a method cannot merge folders into a folder; empty if it can."""
    if method.needs:
        what = "labelled inputs" if "labels" in method.needs else "inputs"
        return f"needs {what} of the models' tasks, which model folders do not hold"
    return _DEPLOYS.get(method.deploys, "")
