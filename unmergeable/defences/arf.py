"""ARF: keep every attention matrix a distance away from the base.

"Anchor-repelling fine-tuning", the defence of arXiv 2606.30360 (ECCV 2026), the paper of the attack
AGA, which aligns a protected model to its base. Known to us from a summary; no code of ARF.

    L = CE + λ Σ max(0, ρ ‖W_pre‖ - ‖W - W_pre‖)   over Q, K, V and O of every layer

Claimed (ViT-B/32, task arithmetic, from the summary): alone 88.11 %; with an invertible transform
on top, merges reach 4.63 %, and 27.42 % after AGA (unprotected: 67.23 %).

The summary prints min(0, ...), which rewards distance without bound once beyond ρ and does nothing
below it. `hinge=hinge`, our reading, is the one above; `hinge=printed` takes the other literally.

Exactness: the function is learned, not kept. Data: the owner's training data. Architectures: those
declared in unmergeable/architectures, full weights. What it changes in the folder: weights only.

ARF alone stops no merge: it makes the alignment that undoes a lock worse. Lock its output with
`unmergeable protect`, a separate command. What undoes it: alignments that do not lean on the base's
attention matrices, a few steps of fine-tuning, distilling the release.

Ours: a fused projection (GPT-2's c_attn) counts as its Q, K and V.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from unmergeable.defences.defence import Claim, FieldRow, Summary
from unmergeable.defences.model_in_training import ModelInTraining, Part, attention_matrices
from unmergeable.defences.training_defence import Pass, TrainingDefence
from unmergeable.settings import Choice, Number, Setting

if TYPE_CHECKING:
    import torch


class Arf(TrainingDefence):
    """Anchor-repelling fine-tuning, reconstructed from a summary."""

    name = "arf"
    title = "ARF-style anchor-repelling fine-tuning"
    paper = "arXiv 2606.30360, ECCV 2026 (from a summary)"
    reconstructed = True
    order = 130
    summary = Summary(
        claims="holds where locks alone fall",
        exact="no: trained, then a lock",
        needs="labelled data, full fine-tuning",
        changes="weights",
        undone_by="the lock: `align`; the rest: coefficients and repairs",
    )
    claims = (
        Claim(
            "arXiv 2606.30360 (a summary of it; ViT-B/32, task arithmetic)",
            "holds against anchor-guided alignment",
            "4.63 to 27.42 of 67.23 % accuracy",
            "attacked",
        ),
        Claim(
            "arXiv 2606.30360 (a summary of it; ViT-B/32)",
            "the model's own accuracy stays",
            "88.81 to 88.11 %",
            "own",
        ),
    )
    rows = (
        FieldRow("arf-lock", "ARF + lock", then="lock", main=True, order=80),
        FieldRow("arf", "ARF alone", extra=True, order=110),
    )
    no_lora = (
        "arf keeps whole attention matrices away from the base so that the lock on top resists "
        "alignment, and the lock of an adapter's product does not cancel against a frozen base"
    )
    settings: ClassVar[Mapping[str, Setting]] = {
        "strength": Number("λ, the weight of the distance", 1.0),
        "radius": Number("ρ: the distance, as a share of a base matrix's norm", 0.05),
        "hinge": Choice(
            "hinge: max(0, ...), our reading; printed: min(0, ...), without bound",
            "hinge",
            choices=("hinge", "printed"),
        ),
    }

    def prepare(self, model: ModelInTraining) -> None:
        """See `TrainingDefence`.

        Raises:
            UnsupportedError: an architecture that nobody has declared.
        """
        trained = model.trained()
        self._matrices: list[tuple[Part, torch.Tensor, torch.Tensor]] = [
            (part, trained[part.name], part.of(trained[part.name]).detach().clone())
            for part in attention_matrices(model.layout)
        ]
        self._radii = [float(self.chosen["radius"] * base.norm()) for _, _, base in self._matrices]

    def extra_loss(self, one: Pass) -> torch.Tensor:
        """See `TrainingDefence`."""
        import torch

        short = torch.stack(
            [
                radius - (part.of(weight) - base).norm()
                for (part, weight, base), radius in zip(self._matrices, self._radii, strict=True)
            ]
        )
        printed = self.chosen["hinge"] == "printed"
        total = (short.clamp(max=0) if printed else short.clamp(min=0)).sum()
        return self.chosen["strength"] * one.share * total  # type: ignore[no-any-return]

    def finish(self, model: ModelInTraining) -> dict[str, Any]:
        """See `TrainingDefence`; distances as shares of the base matrices' norms."""
        distances = sorted(
            float((part.of(weight.detach()) - base).norm() / base.norm())
            for part, weight, base in self._matrices
        )
        reached = sum(distance >= self.chosen["radius"] for distance in distances)
        return {
            "matrices": len(distances),
            "at_the_radius_or_beyond": reached,
            "least_distance": distances[0],
            "greatest_distance": distances[-1],
        }
