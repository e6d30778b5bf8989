"""What a training-time defence is: settings, a loss beside the task's, and a last touch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from unmergeable.defences.defence import Defence, FieldRow
from unmergeable.settings import Wording, read

if TYPE_CHECKING:
    import torch

    from unmergeable.defences.model_in_training import ModelInTraining


WORDING = Wording(
    unknown="{owner} has no setting {name!r}; there is {known}.",
    choice="{name} is {given!r}: there is {all}.",
)


@dataclass(frozen=True)
class Pass:
    """One forward pass in training, as a defence sees it.

    Attributes:
        step: optimiser steps done before.
        share: the share of the step's batch that this pass holds. Over the passes of a step, and
            averaged over processes, shares add up to 1.
        nominal: the task's mean loss times the share, in nats.
        again: the same for other weights, given by the names of the module's parameters: the same
            items and the same random state, so the same dropout.
    """

    step: int
    share: float
    nominal: torch.Tensor
    again: Callable[[Mapping[str, torch.Tensor]], torch.Tensor]


class TrainingDefence(Defence):
    """A defence that is learned; its files say what their papers claim.

    Attributes:
        no_lora: why it cannot train an adapter; empty if it can.
        whole: whether it reads whole weight tensors in each step, so that they must not be sharded
            over processes.
        curve: points s at which validation measures the loss of W0 + s(W - W0).
    """

    no_lora: ClassVar[str] = ""
    whole: ClassVar[bool] = True
    curve: ClassVar[tuple[float, ...]] = ()

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        #: every setting by name, as used; `prepare` fills in what the model decides.
        self.chosen = read(self.settings, settings or {}, self.name, WORDING)

    def prepare(self, model: ModelInTraining) -> None:
        """Called once, while the module still holds the base's weights."""

    def extra_loss(self, one: Pass) -> torch.Tensor | None:
        """What is added to the task's loss in one pass; None for nothing."""
        return None

    def weights_at(self, s: float) -> Mapping[str, torch.Tensor]:
        """The weights at a point of the curve, by parameter name."""
        raise NotImplementedError

    def finish(self, model: ModelInTraining) -> dict[str, Any]:
        """Called once after training; may change the weights. Returns what was measured."""
        return {}


class NoDefence(TrainingDefence):
    """The ordinary fine-tune: the control beside every defence.

    Changes weights as training does; claims nothing.
    """

    name = "none"
    title = "ordinary fine-tuning"
    paper = ""
    rows = (FieldRow("retrained", "trained again, no defence", main=True, order=100),)
    order = 110
    whole = False
