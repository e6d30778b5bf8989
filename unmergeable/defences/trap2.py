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

from unmergeable.defences.defence import Claim, FieldRow, Summary
from unmergeable.defences.interpolation import Interpolation
from unmergeable.defences.model_in_training import ModelInTraining
from unmergeable.defences.training_defence import Pass, TrainingDefence
from unmergeable.errors import InputError
from unmergeable.settings import Choice, Number, Setting

if TYPE_CHECKING:
    import torch

_WEIGHTINGS: Mapping[str, Callable[[float], float]] = {
    "inv": lambda s: 1 / s,
    "inv_sqrt": lambda s: 1 / math.sqrt(s),
    "none": lambda s: 1.0,
}


class Trap2(TrainingDefence):
    """Scaling-sensitive training, after Trap²."""

    name = "trap2"
    title = "Trap²"
    paper = "arXiv 2601.21898, ICML 2026"
    order = 120
    summary = Summary(
        claims="merges that rescale updates are degraded",
        exact="no: trained",
        needs="labelled data; LoRA or full",
        changes="weights, or an adapter",
        undone_by="nothing to undo; coefficient 1 for the protected model, routing",
    )
    claims = (
        Claim(
            "arXiv 2601.21898 (ViT-B/32, full fine-tuning, 8 tasks, TIES; share of the expert's "
            "accuracy)",
            "merges that rescale updates are degraded",
            "51.0 to 38.0 %",
            "released",
        ),
        Claim(
            "arXiv 2601.21898 (ViT-B/32, full fine-tuning, mean of 8 tasks)",
            "the model's own accuracy stays",
            "87.4 to 87.6 %",
            "own",
        ),
    )
    rows = (FieldRow("trap2", "Trap²", main=True, order=70),)
    settings: ClassVar[Mapping[str, Setting]] = {
        "strength": Number(
            "λ, the weight of the loss along the ray", None, "0.001 with --lora, else 0.005"
        ),
        "s_min": Number("least scale", 0.05, low=1e-3, high=1.0),
        "s_max": Number("greatest scale", 2.0, low=1.0, high=100.0),
        "gap": Number("δ: scales nearer to 1 than this are not drawn", 0.05, high=0.9),
        "weighting": Choice(
            "w(s): 1/s, 1/√s or 1",
            None,
            "inv_sqrt for causal language models, else inv",
            choices=tuple(_WEIGHTINGS),
        ),
        "cap": Number("ours: no gain from a loss along the ray above this, in nats", None, "none"),
    }
    curve = (0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)

    def prepare(self, model: ModelInTraining) -> None:
        """See `TrainingDefence`."""
        chosen = self.chosen
        if chosen["s_min"] >= 1 - chosen["gap"] and chosen["s_max"] <= 1 + chosen["gap"]:
            raise InputError(
                f"trap2: no scale lies in [{chosen['s_min']:g}, {chosen['s_max']:g}] and "
                f"{chosen['gap']:g} or more from 1. Lower the gap."
            )
        if chosen["strength"] is None:
            chosen["strength"] = 0.001 if model.lora else 0.005
        if chosen["weighting"] is None:
            chosen["weighting"] = "inv_sqrt" if model.causal else "inv"
        self._path = Interpolation(model)
        self._seed = model.seed

    def scale(self, step: int) -> float:
        """The s of a step."""
        draw = random.Random(f"trap2 {self._seed} {step}")
        while True:
            s = draw.uniform(self.chosen["s_min"], self.chosen["s_max"])
            if abs(s - 1) >= self.chosen["gap"]:
                return s

    def extra_loss(self, one: Pass) -> torch.Tensor:
        """See `TrainingDefence`."""
        s = self.scale(one.step)
        loss = one.again(self._path.at(s))
        if self.chosen["cap"] is not None:
            loss = loss.clamp(max=self.chosen["cap"] * one.share)
        weight = self.chosen["strength"] * _WEIGHTINGS[self.chosen["weighting"]](s)
        extra: torch.Tensor = -weight * loss
        return extra

    def weights_at(self, s: float) -> Mapping[str, torch.Tensor]:
        """See `TrainingDefence`."""
        return self._path.at(s)
