"""Text classification with an encoder: pooled hidden states and a linear head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from unmergeable.errors import InputError
from unmergeable.evaluation.heads import Head, answers
from unmergeable.evaluation.task import Batch, Grouping, Task, buckets, chosen_labels, padded

if TYPE_CHECKING:
    import torch

    from unmergeable.models.model_runner import ModelRunner


@dataclass(frozen=True, kw_only=True)
class TextTask(Task):
    """A text classification task.

    Attributes:
        head: the task's own head; None where the model has a classifier (and merges it).
        tokens: texts are cut at this many.
    """

    kind: ClassVar[str] = "text"

    head: Head | None = None
    tokens: int = 128

    def __post_init__(self) -> None:
        if self.head is not None:
            self._check_labels(self.head.classes)

    def batches(
        self,
        runner: ModelRunner,
        texts: Sequence[str],
        labels: Sequence[int] | None = None,
        groups: Grouping = None,
    ) -> list[Batch]:
        """See [`Task.batches`][unmergeable.evaluation.task.Task.batches]."""
        if runner.tokenizer is None:
            raise InputError(f"task {self.name} needs a tokenizer, and the model folder has none.")
        ids = [
            row[: self.tokens]
            for row in (runner.tokenizer(list(texts))["input_ids"] if texts else [])
        ]
        out = []
        for rows in (groups or buckets)([len(sequence) for sequence in ids]):
            inputs = padded([ids[row] for row in rows])
            out.append(Batch(inputs, tuple(rows), chosen_labels(labels, rows), {}))
        return out

    def logits(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """See [`Task.logits`][unmergeable.evaluation.task.Task.logits]."""
        return answers(model, batch.inputs, self.head, self.name)
