"""NeuLig-style merging: coefficients that imitate the models' ensemble. A reconstruction.

NeuLig (arXiv:2503.01268) trains a small network, Portland, whose outputs are per-model
coefficients, until the merged model answers like the ensemble of the models. Its formulas are not
known to us. What stands here keeps the aim and drops the network: α minimises
KL(mean_i f_{θ_i}(x) ‖ f_{θ_0 + Σ α_i τ_i}(x)) over unlabelled inputs, by Adam from 1/n for n
models.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from unmergeable.evaluation.task import Batch
from unmergeable.merging.learning import Mixture
from unmergeable.merging.linear_layers import running
from unmergeable.merging.method import Ingredients, Merged, MergeMethod, Parameter
from unmergeable.merging.task_vectors import check, deltas, finite

if TYPE_CHECKING:
    import torch


def merge(ingredients: Ingredients, *, steps: int, rate: float) -> Merged:
    """Fits the coefficients to the ensemble.

    Args:
        ingredients: with a runner and inputs for each model.
        steps: of Adam; each sees one batch of every corpus.
        rate: of Adam, per step.
    """
    check(ingredients)
    count = len(ingredients.models)
    wanted = ensemble(ingredients)

    def distance(answers: torch.Tensor, batch: Batch, index: int) -> torch.Tensor:
        teacher = wanted[id(batch)].to(answers)
        return (teacher * (teacher.clamp_min(1e-30).log() - answers.log_softmax(1))).sum(1).mean()

    mixture = Mixture(ingredients, partial(deltas, ingredients), [1 / count] * count)
    mixture.learn(distance, steps, rate)
    return Merged({name: finite(tensor, name) for name, tensor in mixture.state().items()})


def ensemble(ingredients: Ingredients) -> dict[int, torch.Tensor]:
    """The mean of the models' probabilities for each batch, by the batch's identity."""
    import torch

    runner, corpora = running(ingredients)
    sums: dict[int, torch.Tensor] = {}
    with torch.no_grad():
        for model in ingredients.models:
            runner.load_state(model)
            for corpus in corpora:
                for batch in corpus.batches:
                    answers = corpus.task.logits(runner.model, batch).softmax(1)
                    answers /= len(ingredients.models)
                    known = sums.get(id(batch))
                    sums[id(batch)] = answers if known is None else known.add_(answers)
    return sums


NEULIG = MergeMethod(
    "neulig",
    "NeuLig-style (reconstruction)",
    "arXiv:2503.01268",
    merge,
    {
        "steps": Parameter("of Adam; each sees one batch of every corpus", 50),
        "rate": Parameter("of Adam, per step", 1e-2),
    },
    order=160,
    needs=frozenset({"inputs"}),
)
