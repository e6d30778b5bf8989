"""Merging coefficients found by gradient descent on what the merged model answers.

The gradient by a coefficient is the inner product of the gradient by the weights with the task
vector it multiplies. So one merged model and its gradient are held, and task vectors are made
again, tensor by tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from unmergeable.errors import InputError
from unmergeable.evaluation.task import Batch
from unmergeable.merging.linear_layers import owner, running
from unmergeable.merging.method import Corpus, Ingredients
from unmergeable.merging.task_vectors import check, floating

if TYPE_CHECKING:
    import torch

# From a model's answers to one batch of one corpus to what is to become small.
Loss = Callable[["torch.Tensor", Batch, int], "torch.Tensor"]


def entropy(answers: torch.Tensor, batch: Batch, index: int) -> torch.Tensor:
    """The mean entropy of answers, in nats."""
    logs = answers.log_softmax(1)
    return -(logs.exp() * logs).sum(1).mean()


def answered(answers: torch.Tensor, batch: Batch, index: int) -> torch.Tensor:
    """Cross-entropy where there are labels, else the answers' own entropy."""
    import torch

    if batch.labels is None:
        return entropy(answers, batch, index)
    return torch.nn.functional.cross_entropy(answers, batch.labels.to(answers.device))


class Mixture:
    """The base plus coefficients times directions, one coefficient for each direction and group."""

    def __init__(
        self,
        ingredients: Ingredients,
        directions: Callable[[str], list[torch.Tensor]],
        start: Sequence[float],
        *,
        group: Callable[[str], Hashable] = lambda name: None,
    ) -> None:
        """Sets up.

        Args:
            ingredients: with a runner and inputs for each model.
            directions: the float32 directions of a tensor.
            start: the coefficients' first values.
            group: from a tensor's name to what shares its coefficients; all tensors, by default.
        """
        import torch

        check(ingredients)
        self.runner, self.corpora = running(ingredients)
        self.ingredients, self.directions = ingredients, directions
        self.names = floating(ingredients.base)
        groups = [group(name) for name in self.names]
        places = {found: place for place, found in enumerate(dict.fromkeys(groups))}
        self.alpha = torch.tensor([list(start)] * len(places), dtype=torch.float64)
        self.row = {name: places[found] for name, found in zip(self.names, groups, strict=True)}

    def state(self) -> dict[str, torch.Tensor]:
        """The merge with the coefficients as they are, float32."""
        state = {name: tensor.clone() for name, tensor in self.ingredients.base.items()}
        for name in self.names:
            mixed = state[name] = state[name].float()
            pairs = zip(self.directions(name), self.alpha[self.row[name]].tolist(), strict=True)
            for direction, coefficient in pairs:
                mixed.add_(direction, alpha=coefficient)
        return state

    def learn(self, loss: Loss, steps: int, rate: float) -> torch.Tensor:
        """Runs Adam on the coefficients; each step sees one batch of every corpus.

        Returns:
            The coefficients, float64, shape (groups, directions).

        Raises:
            InputError: answers that are not finite, or settings out of range.
        """
        import torch

        if steps < 0 or rate <= 0:
            raise InputError(f"got steps={steps}, rate={rate}: give 0 and more, more than 0.")
        optimiser = torch.optim.Adam([self.alpha], lr=rate)
        feed = rounds(self.corpora, self.ingredients.seed)
        for _ in range(steps):
            self.alpha.grad = self._gradient(loss, next(feed))
            optimiser.step()
        return self.alpha

    def _gradient(self, loss: Loss, batches: Sequence[Batch]) -> torch.Tensor:
        import torch

        gradient = torch.zeros_like(self.alpha)
        for name, part in slope(self.runner, self.state(), self.corpora, batches, loss).items():
            for place, direction in enumerate(self.directions(name)):
                inner = part.flatten().double() @ direction.flatten().double()
                gradient[self.row[name], place] += float(inner)
        if not gradient.isfinite().all():
            raise InputError(
                "the merged model's answers are not finite: no coefficients can be learnt."
            )
        return gradient


def slope(
    runner: Any,
    state: dict[str, torch.Tensor],
    corpora: Sequence[Corpus],
    batches: Sequence[Batch],
    loss: Loss,
) -> dict[str, torch.Tensor]:
    """The gradient of the summed loss over one batch of each corpus, by tensor.

    A tensor that the answers do not depend on is left out, and so is the second name of a tied one:
    the first has the gradient of both.
    """
    import torch

    runner.load_state(state)
    parameters: dict[int, tuple[str, torch.Tensor]] = {}
    for own, name in runner.folder_names().items():
        parameter = owner(runner.model, name)._parameters[own.rpartition(".")[2]]
        if parameter is not None and parameter.is_floating_point():
            parameters.setdefault(id(parameter), (name, parameter))
    tensors = [parameter for _, parameter in parameters.values()]
    for tensor in tensors:
        tensor.requires_grad_(True)
    sums: dict[str, torch.Tensor] = {}
    try:
        for index, (corpus, batch) in enumerate(zip(corpora, batches, strict=True)):
            value = loss(corpus.task.logits(runner.model, batch), batch, index)
            grads = torch.autograd.grad(value, tensors, allow_unused=True)
            for (name, _), grad in zip(parameters.values(), grads, strict=True):
                if grad is not None:
                    known = sums.get(name)
                    sums[name] = grad if known is None else known.add_(grad)
    finally:
        for tensor in tensors:
            tensor.requires_grad_(False)
    return sums


def rounds(corpora: Sequence[Corpus], seed: int) -> Iterator[list[Batch]]:
    """One batch of each corpus at a time, for ever; each corpus in its own random order."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    orders: list[list[int]] = [[] for _ in corpora]
    while True:
        batches = []
        for order, corpus in zip(orders, corpora, strict=True):
            if not order:
                order += torch.randperm(len(corpus.batches), generator=generator).tolist()
            batches.append(corpus.batches[order.pop()])
        yield batches
