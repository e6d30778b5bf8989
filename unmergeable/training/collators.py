"""How a model reads items, and how its answers become a loss."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unmergeable.errors import InputError
from unmergeable.evaluation.heads import Head, pool
from unmergeable.evaluation.images import ImageTask
from unmergeable.evaluation.task import padded
from unmergeable.models.model_runner import ModelRunner
from unmergeable.training.data import Items

if TYPE_CHECKING:
    import torch

Call = Callable[..., Any]
Example = dict[str, Any]
NOTHING = -100


@dataclass(frozen=True)
class Answers:
    """What a model says where something is asked.

    Attributes:
        logits: float32, shape (answers, classes or tokens).
        labels: int64, shape (answers,).
    """

    logits: torch.Tensor
    labels: torch.Tensor


class Reading(ABC):
    """Encodes items, batches them, and reads a model's answers.

    Attributes:
        cut: how many items were cut to the greatest length.
    """

    cut: int = 0

    @abstractmethod
    def encode(self, items: Items) -> list[Example]:
        """Items as they go into `collate`."""

    @abstractmethod
    def collate(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """A batch: what the model is called with, and `labels`, of which `NOTHING` is none."""

    @abstractmethod
    def answers(self, call: Call, batch: Mapping[str, torch.Tensor]) -> Answers:
        """Calls a model on a batch and reads its answers."""

    def loss(self, call: Call, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Cross-entropy, in nats, summed over a batch's answers: float32."""
        import torch

        said = self.answers(call, batch)
        with torch.autocast(said.logits.device.type, enabled=False):
            return torch.nn.functional.cross_entropy(said.logits, said.labels, reduction="sum")

    @staticmethod
    def count(batch: Mapping[str, torch.Tensor]) -> int:
        """How many answers a batch asks for."""
        return int((batch["labels"] != NOTHING).sum())


class Language(Reading):
    """A causal language model; the labels stand where they are predicted.

    Args:
        tokenizer: of the base.
        module: the model, for what its forward pass accepts.
        tokens: texts are cut at this many; of a prompt and its completion, the prompt at its front.
        end: whether a completion ends with the end-of-text token.
    """

    def __init__(self, tokenizer: Any, module: torch.nn.Module, tokens: int, end: bool) -> None:
        self._tokenizer, self._tokens = tokenizer, tokens
        self._end = [tokenizer.eos_token_id] if end else []
        if end and tokenizer.eos_token_id is None:
            raise InputError("the base's tokenizer has no end-of-text token: give --no-end.")
        self._sparse = "logits_to_keep" in inspect.signature(module.forward).parameters

    def encode(self, items: Items) -> list[Example]:
        """See `Reading`."""
        texts = [text for text, _ in items.rows]
        fronts = self._tokenizer(texts)["input_ids"]
        if items.kind == "text":
            ends = [self._end for _ in texts]
        else:
            parts = self._tokenizer([c for _, c in items.rows], add_special_tokens=False)
            ends = [part + self._end for part in parts["input_ids"]]
        out = []
        for number, (front, end) in enumerate(zip(fronts, ends, strict=True)):
            # Some tokenizers end every text with the end-of-text token; a prompt does not end.
            if end and front and front[-1] == self._tokenizer.eos_token_id:
                front = front[:-1]
            self.cut += len(front) + len(end) > self._tokens
            if items.kind == "text":
                ids = (front + end)[: self._tokens]
                asked = 1
            else:
                front = front[max(0, len(front) + len(end) - self._tokens) :]
                ids, asked = (front + end)[: self._tokens], max(1, len(front))
            if len(ids) <= asked:
                raise InputError(
                    f"item {number + 1} has {len(ids)} tokens, and {asked} of them are given: "
                    "nothing is left to learn. Lengthen it, or raise --tokens."
                )
            # The label of a position is the token after it.
            labels = [NOTHING] * (asked - 1) + ids[asked:] + [NOTHING]
            out.append({"ids": ids, "labels": labels})
        return out

    def collate(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """See `Reading`."""
        import torch

        batch = padded([example["ids"] for example in examples])
        labels = torch.full_like(batch["input_ids"], NOTHING)
        for row, example in enumerate(examples):
            labels[row, : len(example["labels"])] = torch.tensor(example["labels"])
        return {**batch, "labels": labels}

    def answers(self, call: Call, batch: Mapping[str, torch.Tensor]) -> Answers:
        """See `Reading`; the head is applied only where some row is asked, if the model can."""
        labels = batch["labels"]
        inputs: dict[str, Any] = {k: batch[k] for k in ("input_ids", "attention_mask")}
        if self._sparse:
            columns = (labels != NOTHING).any(0).nonzero()[:, 0]
            inputs["logits_to_keep"], labels = columns, labels[:, columns]
        logits = call(**inputs, use_cache=False).logits
        asked = labels != NOTHING
        return Answers(logits[asked].float(), labels[asked])


class Classes(Reading):
    """A classifier of texts or images: its own, or a frozen head outside of the model.

    Args:
        runner: the base with its tokenizer or image processor.
        classes: how many answers there are.
        head: None for the model's own classifier.
        tokens: texts are cut at this many.
        size: images are scaled to this many pixels a side where there is no preprocessor.
    """

    def __init__(
        self, runner: ModelRunner, classes: int, head: Head | None, tokens: int, size: int | None
    ) -> None:
        self._runner, self._classes, self._head, self._tokens = runner, classes, head, tokens
        self._images = ImageTask(name="training", title="", size=size)

    def encode(self, items: Items) -> list[Example]:
        """See `Reading`; images are opened when their batch is due."""
        if items.labels > self._classes:
            raise InputError(
                f"the data have {items.labels} classes, and the classifier {self._classes}."
            )
        if items.kind == "image":
            return [{"path": path, "label": label} for path, label in items.rows]
        if self._runner.tokenizer is None:
            raise InputError("the base has no tokenizer, and the items are texts.")
        ids = self._runner.tokenizer([text for text, _ in items.rows])["input_ids"]
        self.cut += sum(len(row) > self._tokens for row in ids)
        return [
            {"ids": row[: self._tokens], "label": label}
            for row, (_, label) in zip(ids, items.rows, strict=True)
        ]

    def collate(self, examples: Sequence[Example]) -> dict[str, torch.Tensor]:
        """See `Reading`."""
        import torch

        labels = torch.tensor([example["label"] for example in examples])
        if "ids" in examples[0]:
            return {**padded([example["ids"] for example in examples]), "labels": labels}
        paths = [example["path"] for example in examples]
        (batch,) = self._images.batches(self._runner, paths, groups=lambda n: [list(range(len(n)))])
        return {**batch.inputs, "labels": labels}

    def answers(self, call: Call, batch: Mapping[str, torch.Tensor]) -> Answers:
        """See `Reading`."""
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        said = call(**inputs)
        if self._head is None:
            return Answers(said.logits.float(), batch["labels"])
        read = pool(said.last_hidden_state, inputs.get("attention_mask"), self._head.pooling)
        return Answers(self._head(read), batch["labels"])
