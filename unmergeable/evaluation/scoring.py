"""Scores: how much of a task a model gets right."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from unmergeable.errors import InputError
from unmergeable.evaluation.task import Batch, Split, Task
from unmergeable.models.device import computes_bfloat16
from unmergeable.models.model_runner import ModelRunner

# A ruined model may be as wrong as it likes about an item; its mean loss should stay readable. What
# is no number counts as the worst loss, and a finite one, however large, as less.
WORST_LOSS = 100.0
_FINITE = 99.0


@dataclass(frozen=True)
class Score:
    """How each item was answered; an accuracy with its 95 % Wilson interval.

    Attributes:
        marks: One per item, in the items' order: 1 for right, 0 for wrong; between them where an
            item is a text and its mark the share of tokens guessed.
        losses: Cross-entropy of each item in nats, at most `WORST_LOSS`, which is that of an item
            for which the model computed no finite number.
    """

    marks: tuple[float, ...]
    losses: tuple[float, ...] = ()

    @property
    def total(self) -> int:
        """Number of items."""
        return len(self.marks)

    @property
    def accuracy(self) -> float:
        """Mean mark, in [0, 1]."""
        return sum(self.marks) / self.total

    @property
    def loss(self) -> float:
        """Mean loss in nats."""
        return sum(self.losses) / self.total

    @property
    def finite(self) -> bool:
        """Whether the model computed finite numbers for every item."""
        return all(map(math.isfinite, self.marks)) and all(
            loss < WORST_LOSS for loss in self.losses
        )

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of a binomial share (1927): holds its level near 0 and 1 too.

        Marks between 0 and 1 vary less than those of a binomial, so for them it is too wide.
        """
        z, n, p = 1.959964, self.total, self.accuracy
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, centre - half), min(1.0, centre + half)


def score(
    runner: ModelRunner, task: Task, split: Split = "test", limit: int | None = None
) -> Score:
    """Scores the weights that a runner holds.

    Args:
        runner: with the weights loaded.
        task: what to score on.
        split: which items.
        limit: only the first this many items.

    Raises:
        InputError: the split is empty, or the task does not suit the model.
    """
    items = task.items(split, limit)
    if not items:
        raise InputError(f"task {task.name} has no {split} items to score")
    return task.exam(runner, items)()


def score_batches(runner: ModelRunner, task: Task, batches: Sequence[Batch]) -> Score:
    """Scores the weights that a runner holds on items that are encoded already."""
    import torch

    total = sum(len(batch.items) for batch in batches)
    marks, losses = torch.zeros(total), torch.zeros(total)
    runner.model.eval()
    with torch.inference_mode(), precision(runner), cast_once(runner):
        for batch in batches:
            answers = task.logits(runner.model, batch)
            rows = list(batch.items)
            marks[rows] = task.marks(answers, batch).cpu()
            losses[rows] = task.losses(answers, batch).float().cpu()
    return Score(tuple(marks.tolist()), tuple(map(readable, losses.tolist())))


def readable(loss: float) -> float:
    """A loss as scores keep it: of bounded size, and told apart from what is no number."""
    return min(loss, _FINITE) if math.isfinite(loss) else WORST_LOSS


@contextmanager
def cast_once(runner: ModelRunner) -> Iterator[None]:
    """The weights of linear layers in the arithmetic's precision, in their place for a while.

    The same numbers come out: autocast casts these weights too, but for each batch again.
    """
    import torch

    if not computes_bfloat16(runner.device):
        yield
        return
    # Of the trunk alone: tasks read the head's weights themselves.
    linears = [
        (module, module.weight)
        for module in getattr(runner.model, "base_model", runner.model).modules()
        if type(module) is torch.nn.Linear
        and module.weight.dtype == torch.float32  # autocast casts no other
    ]
    for module, weight in linears:
        module.weight = torch.nn.Parameter(weight.to(torch.bfloat16), requires_grad=False)
    try:
        yield
    finally:
        for module, weight in linears:
            module.weight = weight


def precision(runner: ModelRunner) -> AbstractContextManager[Any]:
    """The arithmetic that models are scored and trained in, as `precision_name` calls it."""
    import torch

    if not computes_bfloat16(runner.device):
        return nullcontext()
    cast: AbstractContextManager[Any] = torch.autocast(runner.device.type, torch.bfloat16)
    return cast


def precision_name(runner: ModelRunner) -> str:
    """What `precision` is where a model runs."""
    if computes_bfloat16(runner.device):
        return "bfloat16 autocast of float32 weights"
    return "float32"
