"""What a training-time defence is: settings, a loss beside the task's, and a last touch."""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from unmergeable.errors import InputError

if TYPE_CHECKING:
    import torch

    from unmergeable.training.subject import Subject


@dataclass(frozen=True)
class Setting:
    """One setting of a defence.

    Attributes:
        help: for people.
        default: a number or a word; None where the model or nothing decides, as `auto` says.
        auto: what None stands for.
        choices: the words there are; empty for a number.
        low: least number.
        high: greatest number.
    """

    help: str
    default: float | str | None
    auto: str = ""
    choices: tuple[str, ...] = ()
    low: float = 0.0
    high: float = math.inf

    def read(self, name: str, given: Any) -> float | str | None:
        """A value as the command line or a caller gives it.

        Raises:
            InputError: no number, a number out of bounds, or a word that is unknown.
        """
        if given is None:
            return self.default
        if self.choices:
            if given not in self.choices:
                raise InputError(f"{name} is {given!r}: there is {', '.join(self.choices)}.")
            return str(given)
        try:
            value = float(given)
        except (TypeError, ValueError):
            raise InputError(f"{name} is {given!r}, which is not a number.") from None
        if not (math.isfinite(value) and self.low <= value <= self.high):
            raise InputError(f"{name} is {value:g}: it must lie in [{self.low:g}, {self.high:g}].")
        return value


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


class Defence(ABC):
    """A training-time defence; its files say what their papers claim.

    Attributes:
        name: as on the command line.
        title: for people.
        paper: where it comes from.
        no_lora: why it cannot train an adapter; empty if it can.
        knobs: its settings.
        whole: whether it reads whole weight tensors in each step, so that they must not be sharded
            over processes.
        curve: points s at which validation measures the loss of W0 + s(W - W0).
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    no_lora: ClassVar[str] = ""
    knobs: ClassVar[Mapping[str, Setting]] = {}
    whole: ClassVar[bool] = True
    curve: ClassVar[tuple[float, ...]] = ()

    def __init__(self, settings: Mapping[str, Any] | None = None) -> None:
        given = dict(settings or {})
        for name in given:
            if name not in self.knobs:
                known = ", ".join(self.knobs) or "none"
                raise InputError(f"{self.name} has no setting {name!r}; there is {known}.")
        #: every setting by name, as used; `prepare` fills in what the model decides.
        self.settings: dict[str, Any] = {
            name: knob.read(name, given.get(name)) for name, knob in self.knobs.items()
        }

    def prepare(self, subject: Subject) -> None:  # noqa: B027 (there may be nothing to prepare)
        """Called once, while the module still holds the base's weights."""

    def extra_loss(self, one: Pass) -> torch.Tensor | None:
        """What is added to the task's loss in one pass; None for nothing."""
        return None

    def weights_at(self, s: float) -> Mapping[str, torch.Tensor]:
        """The weights at a point of the curve, by parameter name."""
        raise NotImplementedError

    def finish(self, subject: Subject) -> dict[str, Any]:
        """Called once after training; may change the weights. Returns what was measured."""
        return {}


class NoDefence(Defence):
    """The ordinary fine-tune: the control beside every defence.

    Changes weights as training does; claims nothing.
    """

    name = "none"
    title = "ordinary fine-tuning"
    paper = ""
    whole = False
