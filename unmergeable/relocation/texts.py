"""What a base is regrown on: lines of text, or random tokens, cut and put into batches."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from unmergeable.attacks.synthetic_inputs import SPOKEN
from unmergeable.attacks.texts import in_order
from unmergeable.errors import InputError
from unmergeable.evaluation.task import Batch, padded
from unmergeable.merging.method import Corpus

if TYPE_CHECKING:
    from unmergeable.models.model_runner import ModelRunner

TOKENS = 128  # texts are cut there
BATCH = 40  # texts of a step
_NO_LIMIT = 1 << 30


def shuffled(lines: Sequence[str], seed: int) -> list[str]:
    """The same lines in random order."""
    return random.Random(seed).sample(list(lines), len(lines))


def corpus(runner: ModelRunner, lines: Sequence[str]) -> Corpus:
    """Lines as a model reads them, in batches of similar length.

    Raises:
        InputError: a model without a tokenizer, or one that reads no text.
    """
    if runner.tokenizer is None or getattr(runner.model, "main_input_name", "") != "input_ids":
        raise InputError(
            f"{type(runner.model).__name__} reads no text, or its folder has no tokenizer: a "
            "private base is regrown on text so far."
        )
    rows = runner.tokenizer(list(lines), truncation=True, max_length=_most(runner))["input_ids"]
    return _batched([row for row in rows if row])


def random_corpus(runner: ModelRunner, count: int, seed: int) -> Corpus:
    """Sequences of random tokens, as long as short texts."""
    draw, words = random.Random(seed), runner.model.get_input_embeddings().num_embeddings
    longest = _most(runner)
    sizes = [draw.randint(min(4, longest), min(32, longest)) for _ in range(count)]
    return _batched([[draw.randrange(words) for _ in range(size)] for size in sizes])


def joined(*parts: Corpus) -> Corpus:
    """Several corpora as one."""
    return Corpus(SPOKEN, [batch for part in parts for batch in part.batches])


def tokens_of(batches: Sequence[Batch]) -> int:
    """How many tokens are in some batches, padding left out."""
    return sum(int(batch.inputs["attention_mask"].sum()) for batch in batches)


def _most(runner: ModelRunner) -> int:
    config: Any = runner.model.config
    return min(TOKENS, getattr(config, "max_position_embeddings", None) or TOKENS)


def _batched(rows: Sequence[Sequence[int]]) -> Corpus:
    batches = [
        Batch(padded([rows[n] for n in group]), tuple(group), None, {})
        for group in in_order([len(row) for row in rows], _NO_LIMIT, BATCH)
    ]
    return Corpus(SPOKEN, batches)
