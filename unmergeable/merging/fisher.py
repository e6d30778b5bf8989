"""Fisher merging (Matena & Raffel, NeurIPS 2022, arXiv:2111.09832).

Each number of the merge is the models' average, weighted by the diagonal of each one's Fisher
information: θ = Σ_i λ_i F_i θ_i / Σ_i λ_i F_i, with F_i = E_x E_y (∂ log p(y|x) / ∂θ)² over the
model's own inputs and its own answers y ~ p(y|x) (section 3). No label is used.

The expectation over answers is exact for batches of one item: the logits' covariance diag(p) − p pᵀ
has at most (classes − 1) directions, and each takes one backward pass. Larger batches share passes:
items get random signs, which leaves the expectation what it is, and `draws` of them are averaged.
So encode items one by one where the time allows. Where there are more than 64 classes, such as all
tokens, each draw samples one answer per item instead.

As in the authors' code, each model's Fisher is brought to unit norm, as a surer model's is smaller
throughout, and has a floor of 1e-6, below which a merge is a plain average. Tensors that answers do
not depend on are averaged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unmergeable.errors import InputError
from unmergeable.merging.linear_layers import owner, running
from unmergeable.merging.method import Ingredients, Merged, MergeMethod
from unmergeable.merging.task_vectors import check, coefficients, finite, floating
from unmergeable.models.offloaded_state import OffloadedState

if TYPE_CHECKING:
    import torch

# Up to this many classes, the expectation over answers is taken and not sampled.
_CLASSES = 64
# Directions of the logits' covariance with less than this share of it are not worth a pass.
_SHARE = 1e-3


def merge(
    ingredients: Ingredients, *, weight: Any, draws: int, normalise: bool, floor: float
) -> Merged:
    """Merges by diagonal Fisher information.

    Args:
        ingredients: with a runner and inputs for each model.
        weight: the paper's λ_i; only their ratios matter.
        draws: how many random signs each batch of more than one item gets.
        normalise: whether each model's Fisher is brought to unit norm.
        floor: the least Fisher of a number, relative to that norm if normalised.
    """
    if draws < 1 or floor < 0:
        raise InputError(f"fisher got draws={draws}, floor={floor}: give 1 and more, 0 and more.")
    check(ingredients)
    running(ingredients)
    weights = coefficients(weight, len(ingredients.models))
    fishers = []
    for index in range(len(ingredients.models)):
        found = diagonal(ingredients, index, draws)
        norm = sum(float(f.double().square().sum()) for f in found.values()) ** 0.5
        size = 1 / norm if normalise and norm else 1.0
        # in a file, while the next model's is measured
        fishers.append(OffloadedState((name, found.pop(name) * size) for name in list(found)))

    def merged(name: str) -> torch.Tensor:
        above = below = ingredients.base[name].new_zeros(()).float()
        for model, fisher, weight in zip(ingredients.models, fishers, weights, strict=True):
            tensor = model[name].float()
            share = fisher[name] if name in fisher else tensor.new_zeros(())
            share = share.clamp_min(floor or 1e-30) * weight
            above, below = above + share * tensor, below + share
        return finite(above / below, name)

    return Merged(
        {
            name: merged(name) if tensor.is_floating_point() else tensor.clone()
            for name, tensor in ingredients.base.items()
        }
    )


def diagonal(ingredients: Ingredients, index: int, draws: int = 1) -> dict[str, torch.Tensor]:
    """The diagonal of one model's Fisher information on its own inputs, by tensor."""
    import torch

    runner, corpora = running(ingredients)
    corpus = corpora[index]
    runner.load_state(ingredients.models[index])
    tensors = {
        name: owner(runner.model, name)._parameters[name.rpartition(".")[2]]
        for name in floating(ingredients.base)
        if name in runner.folder_names().values()
    }
    # a tensor under two names, such as a tied head, is one parameter with one gradient
    parameters = list({id(p): p for p in tensors.values() if p is not None}.values())
    generator = torch.Generator().manual_seed(ingredients.seed)
    sums: dict[int, torch.Tensor] = {}
    items = 0
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        for batch in corpus.batches:
            logits = corpus.task.logits(runner.model, batch)
            classes = logits.shape[1]
            exact = len(logits) == 1 and classes <= _CLASSES
            pull_of = _directions if classes <= _CLASSES else _sampled
            times = 1 if exact else draws
            pulls = [pull for _ in range(times) for pull in pull_of(logits.detach(), generator)]
            for number, pull in enumerate(pulls, 1):
                grads = torch.autograd.grad(
                    logits, parameters, pull, retain_graph=number < len(pulls), allow_unused=True
                )
                for parameter, grad in zip(parameters, grads, strict=True):
                    if grad is not None:
                        square = grad.detach().square_().div_(times)
                        known = sums.get(id(parameter))
                        sums[id(parameter)] = square if known is None else known.add_(square)
            items += len(batch.items)
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)
    for total in sums.values():
        total /= items
    return {name: sums[id(p)] for name, p in tensors.items() if id(p) in sums}


def _directions(logits: torch.Tensor, generator: torch.Generator) -> list[torch.Tensor]:
    """What to pull back through the model: √λ v for each direction of each answer's covariance."""
    import torch

    p = _probabilities(logits)
    values, vectors = torch.linalg.eigh(torch.diag_embed(p) - p[:, :, None] * p[:, None, :])
    values = values.clamp_min(0)
    worth = (values > _SHARE * values.sum(1, keepdim=True)).any(0)
    pulls = []
    for place in worth.nonzero().flatten().tolist():
        signs = torch.ones(len(p), 1)
        if len(p) > 1:
            signs = torch.randint(2, (len(p), 1), generator=generator) * 2.0 - 1
        pull = vectors[:, :, place] * values[:, place, None].sqrt() * signs.to(p)
        pulls.append(pull.to(logits))
    return pulls


def _sampled(logits: torch.Tensor, generator: torch.Generator) -> list[torch.Tensor]:
    """The same with an answer drawn for each: the gradient of log p(y) by the logits."""
    import torch

    p = _probabilities(logits)
    drawn = torch.multinomial(p.cpu(), 1, generator=generator).to(p.device)
    return [torch.zeros_like(p).scatter_(1, drawn, 1).sub_(p).to(logits)]


def _probabilities(logits: torch.Tensor) -> torch.Tensor:
    p = logits.double().softmax(1)
    if not p.isfinite().all():
        raise InputError("a model's answers are not finite: it has no Fisher information.")
    return p


FISHER = MergeMethod(
    "fisher",
    "Fisher merging",
    "arXiv:2111.09832",
    merge,
    {"weight": 1.0, "draws": 4, "normalise": True, "floor": 1e-6},
    needs=frozenset({"inputs"}),
)
