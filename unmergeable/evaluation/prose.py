"""Plain text: the share of next tokens that a causal language model guesses, and its perplexity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from unmergeable.errors import InputError
from unmergeable.evaluation.task import Batch, Grouping, Task, buckets, padded
from unmergeable.models.device import placed

if TYPE_CHECKING:
    import torch

    from unmergeable.models.model_runner import ModelRunner


@dataclass(frozen=True, kw_only=True)
class ProseTask(Task):
    """Next-token prediction on texts; an item's mark is the share of its tokens guessed.

    The labels of the items mean nothing: a text holds its own answers. Perplexity is the
    exponential of a score's mean loss.

    Attributes:
        tokens: texts are cut at this many.
    """

    kind: ClassVar[str] = "prose"

    tokens: int = 128

    def batches(
        self,
        runner: ModelRunner,
        texts: Sequence[str],
        labels: Sequence[int] | None = None,
        groups: Grouping = None,
    ) -> list[Batch]:
        """See [`Task.batches`][unmergeable.evaluation.task.Task.batches].

        Raises:
            InputError: No tokenizer, or a text of less than two tokens.
        """
        if runner.tokenizer is None:
            raise InputError(f"task {self.name} needs a tokenizer, and the model folder has none.")
        ids = [
            row[: self.tokens]
            for row in (runner.tokenizer(list(texts))["input_ids"] if texts else [])
        ]
        if short := [text for text, row in zip(texts, ids, strict=True) if len(row) < 2]:
            raise InputError(f"task {self.name}: {short[0]!r} is less than two tokens long.")
        out = []
        for rows in (groups or buckets)([len(sequence) for sequence in ids]):
            inputs = padded([ids[row] for row in rows])
            asked = inputs["attention_mask"][:, 1:].bool()  # whether there is a next token
            answers = inputs["input_ids"][:, 1:][asked]
            extra = {"asked": asked, "counts": asked.sum(1)}
            out.append(Batch(inputs, tuple(rows), answers, extra))
        return out

    def logits(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Logits of each next token: float32, shape (positions that are asked, vocabulary)."""
        causal: Any = model
        ids = placed(model, batch.inputs)["input_ids"]
        out = causal(input_ids=ids, use_cache=False).logits
        return out[:, :-1][batch.extra["asked"].to(out.device)].float()  # type: ignore[no-any-return]

    def marks(self, answers: torch.Tensor, batch: Batch) -> torch.Tensor:
        """See [`Task.marks`][unmergeable.evaluation.task.Task.marks]."""
        return _means(super().marks(answers, batch), batch)

    def losses(self, answers: torch.Tensor, batch: Batch) -> torch.Tensor:
        """See `Task.losses`; the mean over an item's tokens."""
        return _means(super().losses(answers, batch), batch)


def _means(values: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Means of the values of each item, from values in the order of positions."""
    import torch

    parts = torch.split(values, batch.extra["counts"].tolist())
    return torch.stack([part.mean() for part in parts])
