"""A task: labelled items, and how a model's answer to one is read. Each kind has its own file."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from unmergeable.errors import InputError

if TYPE_CHECKING:
    import torch

    from unmergeable.evaluation.scoring import Score
    from unmergeable.models.model_runner import ModelRunner

Split = Literal["train", "validation", "test"]
Grouping = Callable[[Sequence[int]], Iterable[list[int]]] | None
TOKENS_PER_BATCH = 2048
# What a scored batch may pad: about what one more batch costs beside its tokens.
PADDING = 64


class Item(NamedTuple):
    """One labelled text, or the path of a labelled image; `label` counts the classes from 0."""

    text: str
    label: int


@dataclass(frozen=True, eq=False)
class Batch:
    """Some items as a model reads them.

    Attributes:
        inputs: what the model is called with.
        items: which of the encoded items each row is.
        labels: int64, shape (answers,); None for items without labels.
        extra: what reading the answers needs besides.
    """

    inputs: Mapping[str, torch.Tensor]
    items: tuple[int, ...]
    labels: torch.Tensor | None
    extra: Mapping[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """Labelled items with a way to read a model's answers; see the subclasses.

    Attributes:
        name: Short identifier.
        title: What people see in a table.
        train: Items to learn from.
        validation: Items to choose settings on.
        test: Items to report on.
        source: Where the items come from, with their licence.
    """

    kind: ClassVar[str]

    name: str
    title: str
    train: tuple[Item, ...] = ()
    validation: tuple[Item, ...] = ()
    test: tuple[Item, ...] = ()
    source: str = ""

    @abstractmethod
    def batches(
        self,
        runner: ModelRunner,
        texts: Sequence[str],
        labels: Sequence[int] | None = None,
        groups: Grouping = None,
    ) -> list[Batch]:
        """Encodes texts (or paths of images) for a runner's model.

        Args:
            runner: whose tokenizer or image processor is used.
            texts: what a model is asked about.
            labels: the right answers, if known.
            groups: which items go together, from how long each is; by default [`buckets`].
        """

    @abstractmethod
    def logits(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """A model's answers, differentiable: float32, shape (answers, classes)."""

    def exam(self, runner: ModelRunner, items: Sequence[Item]) -> Callable[[], Score]:
        """Prepares items, once; what it returns scores whatever weights the runner holds then.

        Args:
            runner: runs the weights.
            items: of this task.
        """
        from unmergeable.evaluation.scoring import score_batches

        batches = self.batches(
            runner,
            [item.text for item in items],
            [item.label for item in items],
            partial(buckets, padding=PADDING),
        )
        return lambda: score_batches(runner, self, batches)

    def marks(self, answers: torch.Tensor, batch: Batch) -> torch.Tensor:
        """How right each item of a batch was answered: float32 in [0, 1], shape (items,).

        Non-finite answers are wrong.
        """
        import torch

        assert batch.labels is not None
        right = answers.argmax(1) == batch.labels.to(answers.device)
        return (right & torch.isfinite(answers).all(1)).float()

    def losses(self, answers: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Cross-entropy of each item of a batch, in nats: float32, shape (items,)."""
        import torch

        assert batch.labels is not None
        labels = batch.labels.to(answers.device)
        return torch.nn.functional.cross_entropy(answers, labels, reduction="none")

    def items(self, split: Split, limit: int | None = None) -> tuple[Item, ...]:
        """The items of a split, or its first `limit` ones."""
        if split not in ("train", "validation", "test"):
            raise InputError(f"split {split!r} is unknown: use train, validation or test")
        chosen: tuple[Item, ...] = getattr(self, split)
        return chosen[:limit]

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over everything a score depends on; titles and sources are left out."""
        content = [self.kind, *self._content()]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def _content(self) -> list[Any]:
        """The JSON-able fields that a score depends on; of fields that are none, their hash."""
        chosen = (getattr(self, f.name) for f in fields(self) if f.name not in ("title", "source"))
        return [getattr(value, "content_hash", value) for value in chosen]

    def _check_labels(self, classes: int) -> None:
        for item in self.train + self.validation + self.test:
            if not 0 <= item.label < classes:
                raise InputError(
                    f"task {self.name} has an item with label {item.label}: labels run from 0 to "
                    f"{classes - 1}"
                )


def buckets(
    lengths: Sequence[int], tokens: int = TOKENS_PER_BATCH, padding: int | None = None
) -> Iterator[list[int]]:
    """Indices grouped by length, longest first.

    Args:
        lengths: of the items.
        tokens: a padded group holds at most this many, unless it is one item.
        padding: of these, at most this many pad; by default any number.
    """
    batch: list[int] = []
    held = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batch:
            padded = (len(batch) + 1) * lengths[batch[0]]
            spare = padded - held - lengths[index]
            if padded > tokens or (padding is not None and spare > padding):
                yield batch
                batch, held = [], 0
        batch.append(index)
        held += lengths[index]
    if batch:
        yield batch


def padded(sequences: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
    """Token ids, padded with zeros on the right, and which are none: int64, shape (n, longest)."""
    import torch

    width = max(map(len, sequences))
    ids = torch.tensor([list(s) + [0] * (width - len(s)) for s in sequences])
    lengths = torch.tensor([len(s) for s in sequences])
    mask = (torch.arange(width) < lengths[:, None]).long()
    return {"input_ids": ids, "attention_mask": mask}


def chosen_labels(labels: Sequence[int] | None, rows: Sequence[int]) -> torch.Tensor | None:
    """The labels of some items, if there are any."""
    import torch

    return None if labels is None else torch.tensor([labels[row] for row in rows])
