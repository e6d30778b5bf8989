"""MergeTune (Wang et al., ICLR 2026, arXiv:2601.10497), carried over from prompts to whole models.

The paper goes on fine-tuning a model w so that the straight paths from it to two given models stay
at a low loss. Towards the fine-tuned model ŵ, with its labelled data, it minimises
CE(w) + mean_t CE(ŵ + t (w − ŵ)) for t = 0.1, 0.3, … 0.9; towards the zero-shot model, whose data
nobody has, a surrogate stands in: 8 · (1 − cos) between the features of w and of that model.

Carried over to merging, and so a reconstruction: w starts from the models' average; a model with
labelled inputs is treated as the paper's fine-tuned one; a model whose inputs have no labels as its
zero-shot one, with answers for features. Paths are drawn between weights, not between features. SGD
with momentum 0.9 at 0.002 as in CoOp, from which the paper starts; it runs for epochs, here `steps`
count, because each takes six passes per labelled corpus.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from unmergeable.errors import InputError
from unmergeable.evaluation.task import Batch
from unmergeable.merging.learning import answered, rounds, slope
from unmergeable.merging.linear_layers import running
from unmergeable.merging.method import Corpus, Ingredients, Merged, MergeMethod, Parameter, State
from unmergeable.merging.task_vectors import added, check, finite, floating, mean

if TYPE_CHECKING:
    import torch

MOMENTUM = 0.9


def merge(
    ingredients: Ingredients,
    *,
    steps: int,
    rate: float,
    samples: int,
    path: float,
    surrogate: float,
) -> Merged:
    """Fine-tunes the average of the models along the paths to them.

    Args:
        ingredients: with a runner and inputs for each model, of which one at least has labels.
        steps: of SGD; each sees one batch of every corpus.
        rate: of SGD, per step.
        samples: points on each path.
        path: the weight of the paths' loss.
        surrogate: the weight of the surrogate.
    """
    check(ingredients)
    _, corpora = running(ingredients)
    if not any(batch.labels is not None for corpus in corpora for batch in corpus.batches):
        raise InputError("mergetune needs labels, and no corpus has any.")
    if steps < 0 or rate <= 0 or samples < 1:
        raise InputError(
            f"mergetune got steps={steps}, rate={rate}, samples={samples}: give 0 and more, more "
            "than 0, 1 and more."
        )
    state = added(ingredients, lambda name, deltas: mean(deltas))
    velocity = {name: state[name].new_zeros(state[name].shape) for name in floating(state)}
    feed = rounds(corpora, ingredients.seed)
    for _ in range(steps):
        for tensor in velocity.values():
            tensor.mul_(MOMENTUM)
        for index, batch in enumerate(next(feed)):
            _pull(ingredients, state, velocity, index, batch, samples, path, surrogate)
        for name, tensor in velocity.items():
            state[name] = finite(state[name].add(tensor, alpha=-rate), name)
    return Merged(state)


def _pull(
    ingredients: Ingredients,
    state: dict[str, torch.Tensor],
    velocity: dict[str, torch.Tensor],
    index: int,
    batch: Batch,
    samples: int,
    path: float,
    surrogate: float,
) -> None:
    """Adds one corpus' gradient to the velocity."""
    import torch

    runner, corpora = running(ingredients)
    corpus, model = corpora[index : index + 1], ingredients.models[index]

    def add(grads: dict[str, torch.Tensor], factor: float) -> None:
        for name, grad in grads.items():
            velocity[name].add_(grad, alpha=factor)

    if batch.labels is None:
        runner.load_state(model)
        with torch.no_grad():
            wanted = corpus[0].task.logits(runner.model, batch)

        def unlike(answers: torch.Tensor, batch: Batch, index: int) -> torch.Tensor:
            return 1 - torch.nn.functional.cosine_similarity(answers, wanted, dim=1).mean()

        add(slope(runner, state, corpus, [batch], unlike), surrogate)
        return
    add(slope(runner, state, corpus, [batch], answered), 1.0)
    for t in points(samples):
        between = along(model, state, t)
        # what moves w by one moves the point by t
        add(slope(runner, between, corpus, [batch], answered), path * t / samples)


def points(samples: int) -> list[float]:
    """Where the path is looked at: 0.1 and on in equal steps, as the official code does."""
    return [0.1 + place / samples for place in range(samples)]


def along(start: State, end: State, t: float) -> dict[str, torch.Tensor]:
    """The model at t on the straight path from one to another."""
    return {
        name: _lerp(start[name], tensor, t) if tensor.is_floating_point() else tensor
        for name, tensor in end.items()
    }


def _lerp(start: torch.Tensor, end: torch.Tensor, t: float) -> torch.Tensor:
    import torch

    return torch.lerp(start.float(), end.float(), t)


def path_loss(ingredients: Ingredients, state: State, samples: int = 5) -> float:
    """The mean cross-entropy at and along the paths from a merge to the models with labels."""
    import torch

    runner, corpora = running(ingredients)
    losses: list[float] = []
    with torch.no_grad():
        for model, corpus in zip(ingredients.models, corpora, strict=True):
            for t in (*points(samples), 1.0):
                runner.load_state(along(model, state, t))
                losses += _labelled(runner.model, corpus)
    return sum(losses) / len(losses)


def _labelled(model: torch.nn.Module, corpus: Corpus) -> Sequence[float]:
    return [
        float(answered(corpus.task.logits(model, batch), batch, 0))
        for batch in corpus.batches
        if batch.labels is not None
    ]


MERGETUNE = MergeMethod(
    "mergetune",
    "MergeTune (reconstruction)",
    "arXiv:2601.10497",
    merge,
    {
        "steps": Parameter("of SGD; each sees one batch of every corpus", 20),
        "rate": Parameter("of SGD, per step", 2e-3),
        "samples": Parameter("points on each path", 5),
        "path": Parameter("the weight of the paths' loss", 1.0),
        "surrogate": Parameter("the weight of the surrogate", 8.0),
    },
    order=170,
    needs=frozenset({"labels"}),
)
