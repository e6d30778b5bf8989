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

from unmergeable.settings import Choice, Number, Setting
from unmergeable.training.defence import Defence, Pass
from unmergeable.training.subject import Part, Subject, attention_matrices

if TYPE_CHECKING:
    import torch


class Arf(Defence):
    """Anchor-repelling fine-tuning, reconstructed from a summary."""

    name = "arf"
    title = "ARF-style anchor-repelling fine-tuning"
    paper = "arXiv 2606.30360, ECCV 2026 (from a summary)"
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

    def prepare(self, subject: Subject) -> None:
        """See `Defence`.

        Raises:
            UnsupportedError: an architecture that nobody has declared.
        """
        trained = subject.trained()
        self._matrices: list[tuple[Part, torch.Tensor, torch.Tensor]] = [
            (part, trained[part.name], part.of(trained[part.name]).detach().clone())
            for part in attention_matrices(subject.layout)
        ]
        self._radii = [float(self.chosen["radius"] * base.norm()) for _, _, base in self._matrices]

    def extra_loss(self, one: Pass) -> torch.Tensor:
        """See `Defence`."""
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

    def finish(self, subject: Subject) -> dict[str, Any]:
        """See `Defence`; distances as shares of the base matrices' norms."""
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
