"""MergeGuard-style protection: spread the task over all weights, then take its largest steps back.

"Defending Unauthorized Model Merging via Dual-Stage Weight Protection", arXiv 2511.11851.
Reconstructed from the abstract and secondary sources: no code is known, and summaries disagree.

Stage 1, in training: L = L_task + α Σ_l ‖θ^(l)‖², α = 0.01. As printed, the penalty is on the
weights θ (`penalty=theta`, here over all weights in training), not on their change τ
(`penalty=tau`, ours). It enters the loss and so AdamW's moments, unlike AdamW's own decoupled
decay: where the task's gradient is small, AdamW divides the penalty's gradient by its own size, and
the weight shrinks by the learning rate each step whatever α is. The norm at which gradients are
clipped counts the penalty too, and 2α‖θ‖ is often above it: then the task's gradient shrinks with
it. Watch the task loss in training.json.

Stage 2, after training: θ̂ = θ' - β M ⊙ τ', τ' = θ' - θ_pre. The summary's β = 1 sets the chosen
entries to the base (`reading=reset`); "negation" asks for β = 2, which mirrors them
(`reading=flip`). M as we read it: masking a layer's τ' costs accuracy; the k' = 10 % of layers
that cost the most are left alone (rounded up to whole layers), and of the others the k = 10 % of
entries with the largest |τ'| are chosen. Embeddings, norms, biases and heads are left alone.

Claimed (ViT-L/14, from summaries): EuroSAT 99.81 -> 95.46 alone, merged 94.1 -> 54.94; GTSRB
99.24 -> 98.25 alone, merged 86.7 -> 12.91. AGA's paper reports it broken on several datasets.

Exactness: the function is kept by training and luck, not exactly; `measured` has the accuracy
before and after stage 2. Data: the owner's training data and validation items. Architectures: those
declared in unmergeable/architectures, full weights. What it changes in the folder: weights only.

What undoes it: with `theta`, τ' holds a shrunken base, so one scalar per layer regressed on the
base takes most of it away; coefficients per model; a few steps of fine-tuning; distillation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from unmergeable.defences.defence import Claim, FieldRow, Summary
from unmergeable.defences.model_in_training import ModelInTraining
from unmergeable.defences.training_defence import Pass, TrainingDefence
from unmergeable.errors import InputError
from unmergeable.settings import Choice, Number, Setting

if TYPE_CHECKING:
    import torch

_BETA = {"reset": 1.0, "flip": 2.0}


class MergeGuard(TrainingDefence):
    """Dual-stage weight protection, reconstructed."""

    name = "mergeguard"
    title = "MergeGuard-style dual-stage protection"
    paper = "arXiv 2511.11851 (reconstructed from the abstract and secondary sources)"
    reconstructed = True
    order = 140
    summary = Summary(
        claims="merges lose up to 90 %, the model under 1.5 %",
        exact="no: trained",
        needs="labelled data, full fine-tuning",
        changes="weights",
        undone_by="nothing to undo; coefficients and repairs of the ladder",
    )
    claims = (
        Claim(
            "arXiv 2511.11851 (abstract-level claim)",
            "merged accuracy falls by up to 90 %",
            "up to 90 % lost",
            "released",
        ),
        Claim(
            "arXiv 2511.11851 (abstract-level claim; its own table has 4.35 points on EuroSAT)",
            "costs less than 1.5 % of the model's own accuracy",
            "less than 1.5 % lost",
            "own",
        ),
    )
    rows = (
        FieldRow("mergeguard", "MergeGuard-style", main=True, order=60),
        FieldRow(
            "mergeguard-flip", "MergeGuard-style, flip", {"reading": "flip"}, extra=True, order=120
        ),
    )
    no_lora = (
        "mergeguard spreads the task over all weights and then changes single entries of them, "
        "which no adapter of low rank holds"
    )
    settings: ClassVar[Mapping[str, Setting]] = {
        "alpha": Number("α, the weight of the penalty of stage 1", 0.01),
        "penalty": Choice(
            "what is penalised: the weights, as printed, or their change",
            "theta",
            choices=("theta", "tau"),
        ),
        "reading": Choice(
            "stage 2 sets entries to the base (β = 1) or mirrors them at it (β = 2)",
            "reset",
            choices=tuple(_BETA),
        ),
        "critical": Number("k', the share of layers left alone", 0.1, high=1.0),
        "touched": Number("k, the share of the others' entries changed", 0.1, high=1.0),
    }

    def prepare(self, model: ModelInTraining) -> None:
        """See `TrainingDefence`.

        Raises:
            UnsupportedError: an architecture that nobody has declared.
            InputError: `critical` covers every layer.
        """
        self._trained = model.trained()
        self._base = {name: p.detach().clone() for name, p in self._trained.items()}
        self._layers = model.layer_matrices()
        depth = len(set(self._layers.values()))
        self._kept = math.ceil(self.chosen["critical"] * depth)
        if self._kept >= depth:
            raise InputError(
                f"mergeguard: critical={self.chosen['critical']:g} leaves all {depth} layers "
                "alone, and stage 2 would do nothing. Lower it."
            )

    def extra_loss(self, one: Pass) -> torch.Tensor:
        """See `TrainingDefence`."""
        import torch

        theta = self.chosen["penalty"] == "theta"
        squares = [
            (p if theta else p - self._base[name]).square().sum()
            for name, p in self._trained.items()
        ]
        return self.chosen["alpha"] * one.share * torch.stack(squares).sum()  # type: ignore[no-any-return]

    def finish(self, model: ModelInTraining) -> dict[str, Any]:
        """Stage 2."""
        import torch

        before = dict(model.evaluate())
        costs = {layer: self._cost(model, layer, before) for layer in set(self._layers.values())}
        # Layers whose masking costs the same accuracy, as on few items many do, go by their loss.
        order = sorted(costs, key=lambda layer: costs[layer], reverse=True)
        critical = sorted(order[: self._kept])
        names = [name for name, layer in self._layers.items() if layer not in critical]
        sizes = torch.cat([self._change(name).abs().flatten() for name in names])
        count = round(self.chosen["touched"] * len(sizes))
        chosen = torch.zeros(len(sizes), dtype=torch.bool, device=sizes.device)
        chosen[sizes.topk(count).indices] = True
        chosen &= sizes > 0  # nothing to take back
        beta, start = _BETA[self.chosen["reading"]], 0
        for name in names:
            weight, base = self._trained[name].data, self._base[name]
            mask = chosen[start : start + weight.numel()].view_as(weight)
            start += weight.numel()
            # Not θ' - β τ', which rounds: a reset entry is the base's, bit for bit.
            taken = base if beta == 1 else weight - beta * (weight - base)
            weight.copy_(torch.where(mask, taken, weight))
        total = sum(p.numel() for p in self._trained.values())
        norm = math.sqrt(sum(float(p.detach().square().sum()) for p in self._trained.values()))
        base_norm = math.sqrt(sum(float(b.square().sum()) for b in self._base.values()))
        return {
            "critical_layers": critical,
            "cost_of_masking_a_layer": {
                str(layer): {"accuracy": cost[0], "loss": cost[1]}
                for layer, cost in sorted(costs.items())
            },
            "touched": int(chosen.sum()),
            "touched_of_candidates": float(chosen.float().mean()),
            "touched_of_all": int(chosen.sum()) / total,
            "norm_over_base_norm": norm / base_norm,
            "before_stage_2": before,
            "after_stage_2": dict(model.evaluate()),
        }

    def _change(self, name: str) -> torch.Tensor:
        return self._trained[name].detach() - self._base[name]

    def _cost(
        self, model: ModelInTraining, layer: int, before: dict[str, float]
    ) -> tuple[float, float]:
        """The drop in accuracy and the rise of the loss with a layer's matrices set to the base."""
        names = [name for name, where in self._layers.items() if where == layer]
        kept = {name: self._trained[name].detach().clone() for name in names}
        for name in names:
            self._trained[name].data.copy_(self._base[name])
        masked = model.evaluate()
        for name in names:
            self._trained[name].data.copy_(kept[name])
        return before["accuracy"] - masked["accuracy"], masked["loss"] - before["loss"]
