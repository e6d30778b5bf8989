"""Trap²: a loss that is low at the released weights and high along the ray to the base.

"Making Models Unmergeable via Scaling-Sensitive Loss Landscape", arXiv 2601.21898, ICML 2026; the
training step as in the authors' code (ml-postech/Trap2).

    J = L(W0 + Δ) - λ E_s[w(s) L(W0 + s Δ)],  s uniform on [s_min, 1 - δ] and [1 + δ, s_max]

Claimed (their averages over 8 tasks, ViT-B/32 with LoRA): alone 88.1 % before and after; merged by
task arithmetic 48.3 % -> 23.1 %, by TIES 48.0 -> 36.5, by CART 49.6 -> 41.3. It weakens merges, and
does not prevent them.

Exactness: the function is learned, not kept; validation says by how much it differs. Data: the
owner's training data. Architectures: any that transformers trains; adapters and full weights. What
it changes in the folder: weights only. Memory: one more copy of the trained weights (not for
adapters); time: two passes a step.

What undoes it: a merge that leaves the coefficient of this model at 1 (per-model coefficients,
routing between models), a search over coefficients, fine-tuning the merge on a little data,
distilling the release. It may be locked afterwards: `unmergeable protect`.

Ours, and not the paper's: `cap`; the draw of s by seed and step, the same for all processes and all
passes of a step, so that a run that is resumed or spread over machines draws what one machine
would; the choice of λ and w by the kind of model, which the authors' README and code make by task.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar

from unmergeable.errors import InputError
from unmergeable.training.defence import Defence, Pass, Setting
from unmergeable.training.interpolation import Line
from unmergeable.training.subject import Subject

if TYPE_CHECKING:
    import torch

_WEIGHTINGS: Mapping[str, Callable[[float], float]] = {
    "inv": lambda s: 1 / s,
    "inv_sqrt": lambda s: 1 / math.sqrt(s),
    "none": lambda s: 1.0,
}


class Trap2(Defence):
    """Scaling-sensitive training, after Trap²."""

    name = "trap2"
    title = "Trap²"
    paper = "arXiv 2601.21898, ICML 2026"
    knobs: ClassVar[Mapping[str, Setting]] = {
        "strength": Setting(
            "λ, the weight of the loss along the ray", None, "0.001 with --lora, else 0.005"
        ),
        "s_min": Setting("least scale", 0.05, low=1e-3, high=1.0),
        "s_max": Setting("greatest scale", 2.0, low=1.0, high=100.0),
        "gap": Setting("δ: scales nearer to 1 than this are not drawn", 0.05, high=0.9),
        "weighting": Setting(
            "w(s): 1/s, 1/√s or 1",
            None,
            "inv_sqrt for causal language models, else inv",
            choices=tuple(_WEIGHTINGS),
        ),
        "cap": Setting("ours: no gain from a loss along the ray above this, in nats", None, "none"),
    }
    curve = (0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)

    def prepare(self, subject: Subject) -> None:
        """See `Defence`."""
        settings = self.settings
        if settings["s_min"] >= 1 - settings["gap"] and settings["s_max"] <= 1 + settings["gap"]:
            raise InputError(
                f"trap2: no scale lies in [{settings['s_min']:g}, {settings['s_max']:g}] and "
                f"{settings['gap']:g} or more from 1. Lower the gap."
            )
        if settings["strength"] is None:
            settings["strength"] = 0.001 if subject.lora else 0.005
        if settings["weighting"] is None:
            settings["weighting"] = "inv_sqrt" if subject.causal else "inv"
        self._line = Line(subject)
        self._seed = subject.seed

    def scale(self, step: int) -> float:
        """The s of a step."""
        draw = random.Random(f"trap2 {self._seed} {step}")
        while True:
            s = draw.uniform(self.settings["s_min"], self.settings["s_max"])
            if abs(s - 1) >= self.settings["gap"]:
                return s

    def extra_loss(self, one: Pass) -> torch.Tensor:
        """See `Defence`."""
        s = self.scale(one.step)
        loss = one.again(self._line.at(s))
        if self.settings["cap"] is not None:
            loss = loss.clamp(max=self.settings["cap"] * one.share)
        weight = self.settings["strength"] * _WEIGHTINGS[self.settings["weighting"]](s)
        extra: torch.Tensor = -weight * loss
        return extra

    def weights_at(self, s: float) -> Mapping[str, torch.Tensor]:
        """See `Defence`."""
        return self._line.at(s)
