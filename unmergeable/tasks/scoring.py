"""Score a causal language model on a task: which label word does it find likeliest next?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unmergeable.errors import InputError
from unmergeable.tasks.task import Item, Split, Task

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

TOKENS_PER_BATCH = 2048


@dataclass(frozen=True)
class Score:
    """Which items were answered correctly; an accuracy with its 95 % Wilson interval.

    Attributes:
        right: One truth value per item, in the items' order.
    """

    right: tuple[bool, ...]

    @property
    def correct(self) -> int:
        """Number of items answered correctly."""
        return sum(self.right)

    @property
    def total(self) -> int:
        """Number of items."""
        return len(self.right)

    @property
    def accuracy(self) -> float:
        """Share of correct answers, in [0, 1]."""
        return self.correct / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of a binomial share (1927): holds its level near 0 and 1 too."""
        z, n, p = 1.959964, self.total, self.accuracy
        centre = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return max(0.0, centre - half), min(1.0, centre + half)


def label_tokens(tokenizer: Any, task: Task) -> list[int]:
    """First token of each label word.

    Raises:
        InputError: Two label words begin with the same token, so they cannot be told apart.
    """
    tokens = [tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in task.words]
    if len(set(tokens)) < len(tokens):
        raise InputError(
            f"label words {task.words} of task {task.name} begin with tokens {tokens}: choose "
            "words whose first tokens differ"
        )
    return tokens


def encode(tokenizer: Any, task: Task, items: Sequence[Item]) -> list[list[int]]:
    """Token ids of each item's prompt, in the items' order."""
    prompts = [task.prompt(item) for item in items]
    ids: list[list[int]] = tokenizer(prompts)["input_ids"] if prompts else []
    return ids


def buckets(lengths: Sequence[int], tokens: int = TOKENS_PER_BATCH) -> Iterator[list[int]]:
    """Indices grouped by length, longest first; a padded group holds at most `tokens` tokens."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batch and (len(batch) + 1) * lengths[batch[0]] > tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def last_logits(model: Any, sequences: Sequence[Sequence[int]], tokens: list[int]) -> torch.Tensor:
    """Logits of chosen next tokens after each sequence.

    Sequences are padded on the right: in a causal model no position sees what follows it, so the
    padding changes nothing and no attention mask is needed. The output head is applied to the last
    position and to the chosen rows only.

    Args:
        model: A transformers causal language model.
        sequences: Token ids, one non-empty list per sequence.
        tokens: The token ids to score.

    Returns:
        float32, shape (sequences, tokens).
    """
    import torch

    width = max(map(len, sequences))
    ids = torch.tensor([list(s) + [0] * (width - len(s)) for s in sequences])
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    last = hidden[torch.arange(len(sequences)), [len(s) - 1 for s in sequences]]
    head = model.get_output_embeddings()
    bias = getattr(head, "bias", None)
    with torch.autocast("cpu", enabled=False):
        return torch.nn.functional.linear(
            last.float(),
            head.weight[tokens].float(),
            None if bias is None else bias[tokens].float(),
        )


def logits(model: Any, tokenizer: Any, task: Task, items: Sequence[Item]) -> NDArray[Any]:
    """Label logits of items, float32, shape (items, classes), in the items' order."""
    import numpy as np
    import torch

    tokens = label_tokens(tokenizer, task)
    sequences = encode(tokenizer, task, items)
    out = np.zeros((len(items), len(tokens)), dtype=np.float32)
    model.eval()
    with torch.inference_mode():
        for batch in buckets([len(s) for s in sequences]):
            out[batch] = last_logits(model, [sequences[i] for i in batch], tokens).numpy()
    return out


def accuracy(
    model: Any, tokenizer: Any, task: Task, split: Split = "test", limit: int | None = None
) -> Score:
    """Share of items whose own label word gets the highest logit among the label words.

    Args:
        model: A transformers causal language model, in the dtype it is to be scored in.
        tokenizer: Its tokenizer.
        task: What to score on.
        split: Which items.
        limit: Only the first so many items.

    Returns:
        The score; non-finite logits count as wrong answers.

    Raises:
        InputError: The split is empty, or label words share a first token.
    """
    import numpy as np

    items = task.items(split, limit)
    if not items:
        raise InputError(f"task {task.name} has no {split} items to score")
    values = logits(model, tokenizer, task, items)
    labels = np.array([item.label for item in items])
    right = (values.argmax(1) == labels) & np.isfinite(values).all(1)
    return Score(tuple(right.tolist()))
