"""AdaMerging (Yang et al., ICLR 2024, arXiv:2310.02575).

The coefficients of the task vectors minimise the entropy of the merged model's answers to
unlabelled inputs of every task, by Adam at 0.001 from 0.3: one coefficient per model (task-wise),
or one per model and tensor (layer-wise, as the official code counts layers). Section 3.

The paper takes 500 steps of 16 inputs per task. Each needs a forward and a backward pass per task,
which on a CPU takes seconds for a model of 100 million numbers: the default here is 100 steps. As
Adam moves a coefficient by at most its rate a step, fewer steps want a larger `rate`. A step's
inputs are one batch of each corpus. Coefficients are not bound to [0, 1], as in the official code.
"""

from __future__ import annotations

from functools import partial

from unmergeable.merging.learning import Mixture, entropy
from unmergeable.merging.method import Ingredients, Merged, MergeMethod, Parameter
from unmergeable.merging.task_vectors import coefficients, deltas, finite


def merge(
    ingredients: Ingredients, *, layer_wise: bool, steps: int, rate: float, start: float
) -> Merged:
    """Adapts the coefficients.

    Args:
        ingredients: with a runner and inputs for each model.
        layer_wise: whether each tensor has coefficients of its own.
        steps: of Adam.
        rate: of Adam, per step.
        start: the coefficients' first value, or one per model.
    """
    mixture = Mixture(
        ingredients,
        partial(deltas, ingredients),
        coefficients(start, len(ingredients.models)),
        group=(lambda name: name) if layer_wise else (lambda name: None),
    )
    mixture.learn(entropy, steps, rate)
    return Merged({name: finite(tensor, name) for name, tensor in mixture.state().items()})


def _method(name: str, title: str, *, layer_wise: bool) -> MergeMethod:
    return MergeMethod(
        name,
        title,
        "arXiv:2310.02575",
        partial(merge, layer_wise=layer_wise),
        {
            "steps": Parameter("of Adam", 100),
            "rate": Parameter("of Adam, per step", 1e-3),
            "start": Parameter("the coefficients' first value", 0.3, per_model=True),
        },
        needs=frozenset({"inputs"}),
        # Fewer steps at a higher rate than the paper's, which take a CPU minutes.
        sweep=({"steps": 20, "rate": 5e-3},),
        in_field=layer_wise,
        order=140 if layer_wise else 150,
    )


ADAMERGING = _method("adamerging", "AdaMerging (layer-wise)", layer_wise=True)
ADAMERGING_TASK = _method("adamerging_task", "AdaMerging (task-wise)", layer_wise=False)
