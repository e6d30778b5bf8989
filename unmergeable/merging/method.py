"""What a merge method of our own is: a name, what it needs, and a function from models to a merge.

mergekit has the methods that need nothing but weights (see `mergekit_bridge`). Those of the
literature that it lacks stand beside this file, one each; `methods` finds them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from unmergeable.architectures.layout import Layout
from unmergeable.evaluation.task import Batch, Task
from unmergeable.models.model_runner import ModelRunner
from unmergeable.settings import Setting, Wording, check_known

if TYPE_CHECKING:
    import torch

State = Mapping[str, "torch.Tensor"]
WORDING = Wording(unknown="{owner} has no parameter {name!r}; it has {known}.")


@dataclass(frozen=True)
class Parameter(Setting):
    """A setting of a merge method; the method checks its value.

    Attributes:
        per_model: whether each model may have its own.
        required: whether there is no default.
    """

    per_model: bool = False
    required: bool = False


def weight(
    default: float, text: str = "of the merged task vector, or one for each model"
) -> Parameter:
    """The coefficient that most methods have."""
    return Parameter(text, default, per_model=True)


@dataclass(frozen=True, eq=False)
class Corpus:
    """What a merger has of one model's domain.

    Attributes:
        task: how the model's answers are read.
        batches: inputs of this domain; their labels are None where the merger has none.
    """

    task: Task
    batches: Sequence[Batch]


@dataclass(frozen=True, eq=False)
class Ingredients:
    """All that a merge method may look at.

    Attributes:
        models: the experts' tensors by name, float32; the same names and shapes throughout.
        base: the public base's.
        layout: which axis of which tensor is what.
        runner: runs weights, for the methods that need a running model; else None. A method may
            load any weights.
        corpora: one per model, for the methods that need inputs; else empty.
        seed: of whatever the method draws.
    """

    models: Sequence[State]
    base: State
    layout: Layout
    runner: ModelRunner | None = None
    corpora: Sequence[Corpus] = ()
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Merged:
    """What a merge method gives back.

    Attributes:
        state: the merged tensors, float32, by the same names.
        by_model: for a method that deploys one parameter set per expert's task, those sets, in the
            order of the models; `state` is then the set without a task.
        rewire: for a method that deploys another network than the base's, turns a model with
            `state` loaded into it, in place, and returns what undoes that.
    """

    state: State
    by_model: Sequence[State] = ()
    rewire: Callable[[torch.nn.Module], Callable[[], None]] | None = None


@dataclass(frozen=True)
class MergeMethod:
    """A merge method.

    Attributes:
        name: as users type it.
        title: as its paper writes it.
        paper: arXiv number or venue.
        merge: from ingredients and parameters to the merge.
        settings: what `--set` takes, with the paper's defaults. `weight`, where present, takes one
            coefficient or one per model.
        needs: of "inputs" (unlabelled), "labels": what corpora must hold; empty for weights alone.
        adapters: whether it merges low-rank adapters rather than whole models.
        deploys: one ordinary model, one model per task (`Merged.by_model`), or another network than
            the base's (`Merged.rewire`).
        sweep: what an audit tries: for each try, the settings that are not the defaults.
        in_field: whether the field benchmark runs it.
        order: where it stands in lists; low ones first.
    """

    name: str
    title: str
    paper: str
    merge: Callable[..., Merged]
    settings: Mapping[str, Setting] = field(default_factory=dict)
    needs: frozenset[str] = frozenset()
    adapters: bool = False
    deploys: Literal["model", "model per task", "network"] = "model"
    sweep: Sequence[Mapping[str, Any]] = ({},)
    in_field: bool = False
    order: int = 1000

    @property
    def parameters(self) -> dict[str, Any]:
        """The settings' defaults by name."""
        return {name: one.default for name, one in self.settings.items()}

    def __call__(self, ingredients: Ingredients, **parameters: Any) -> Merged:
        """Merges with the given parameters in place of the defaults.

        Raises:
            InputError: a parameter that the method has not, or as the method does.
        """
        check_known(self.settings, parameters, self.name, WORDING)
        return self.merge(ingredients, **{**self.parameters, **parameters})
