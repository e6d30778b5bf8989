"""How attacks take items from corpora: whole batches, and never their labels.

Only a task knows how a batch is cut, so batches are never cut here: small ones give finer counts.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from unmergeable.attacks.attack import Thief
from unmergeable.attacks.synthetic_inputs import SYNTHETIC, synthetic_inputs
from unmergeable.evaluation.task import Batch, buckets
from unmergeable.merging.method import Corpus, State

COUNTS = (30, 100, 2000)


def in_order(lengths: Sequence[int], tokens: int = 512, most: int = 16) -> Iterator[list[int]]:
    """Groups items into small batches so that the first batches hold the first items.

    To be given to `Task.batches` as `groups`. Within runs of twice `most` items, batches are sorted
    by length, so that they pad little.

    Args:
        lengths: of the encoded items.
        tokens: a padded batch holds at most this many.
        most: items in a batch; the lengths of images say nothing.
    """
    for start in range(0, len(lengths), 2 * most):
        for group in buckets(lengths[start : start + 2 * most], tokens):
            for first_row in range(0, len(group), most):
                yield [start + row for row in group[first_row : first_row + most]]


def pools(
    thief: Thief, kind: str, counts: Sequence[int] = COUNTS, released: State | None = None
) -> Iterator[tuple[int, Corpus]]:
    """Some items of a kind of text: as many as asked for, as far as there are any.

    Batches often stand by length, so they are shuffled before the first ones are taken. Larger
    pools hold the smaller ones.

    Args:
        thief: whose texts.
        kind: of text; one that he has not gives nothing.
        counts: how many items, rising; synthetic inputs come in one size.
        released: who writes, for synthetic inputs.

    Yields:
        How many items, and they: whole batches, so that there may be a few more than asked for.
    """
    if kind in SYNTHETIC and released is not None:
        made = synthetic_inputs(thief, released, kind)
        if made is not None:
            yield items(made.batches), made
        return
    corpus = thief.texts.get(kind)
    if corpus is None:
        return
    shuffled = random.Random(thief.seed).sample(corpus.batches, len(corpus.batches))
    last = 0
    for count in counts:
        batches = first(shuffled, count)
        found = items(batches)
        if found > last:
            yield found, Corpus(corpus.task, batches)
        last = found


def first(batches: Sequence[Batch], count: int) -> list[Batch]:
    """Whole batches until there are this many items."""
    taken: list[Batch] = []
    for batch in batches:
        if items(taken) >= count:
            break
        taken.append(batch)
    return taken


def items(batches: Sequence[Batch]) -> int:
    """How many items are in some batches."""
    return sum(len(batch.items) for batch in batches)


def stream(batches: Sequence[Batch], size: int, seed: int) -> Iterator[list[Batch]]:
    """Batches of about `size` items for one step after the other, without end.

    Every epoch is shuffled again. A step holds whole batches; the last of an epoch may be small.
    """
    draw = random.Random(seed)
    while batches:
        step: list[Batch] = []
        for batch in draw.sample(batches, len(batches)):
            step.append(batch)
            if items(step) + len(batch.items) / 2 > size:  # another would lead further away
                yield step
                step = []
        if step:
            yield step
