"""From raw labelled texts to train, validation and test: deduplicated, leak-free and balanced."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from unmergeable.errors import InputError
from unmergeable.tasks.task import Item


class Raw(NamedTuple):
    """A labelled text before splitting; `group` is shared by texts that say nearly the same."""

    text: str
    label: int
    group: str


class Splits(NamedTuple):
    """The three parts of a task."""

    train: tuple[Item, ...]
    validation: tuple[Item, ...]
    test: tuple[Item, ...]


def normalise(text: str) -> str:
    """What two texts are compared by: letters and digits, lower case, single spaces."""
    return " ".join(re.findall(r"\w+", text.lower()))


def shorten(text: str, letters: int) -> str:
    """The text in single spaces, cut after so many characters, at a word where it has one."""
    text = " ".join(text.split())
    if len(text) <= letters:
        return text
    return text[: letters + 1].rpartition(" ")[0] or text[:letters]


def split(
    raw: Iterable[Raw], classes: int, train: int, validation: int, test: int, seed: int = 0
) -> Splits:
    """Deduplicate, balance the classes, and cut.

    A text that occurs with two labels is dropped, and of each group one text is kept, so that no
    two splits share a group. The choice and the order depend on the texts and the seed alone
    (hashes, no random generator), so they are the same with every version of Python and numpy.
    Test items are taken before the others, so they do not change with the sizes of train and
    validation.

    Args:
        raw: Labelled texts with their groups.
        classes: Number of classes.
        train: Items per class in the train split.
        validation: Items per class in the validation split.
        test: Items per class in the test split.
        seed: Changes which texts go where.

    Returns:
        The splits, each class equally frequent, in an order that mixes the classes.

    Raises:
        InputError: A class has too few distinct texts.
    """
    unique: dict[str, Raw] = {}
    labels: dict[str, set[int]] = defaultdict(set)
    for row in sorted(raw):  # which spelling of a text is kept must not hang on the order
        key = normalise(row.text)
        labels[key].add(row.label)
        unique.setdefault(key, row)

    def rank(row: Raw) -> bytes:
        return hashlib.sha256(f"{seed}\n{row.text}".encode()).digest()

    groups: dict[str, Raw] = {}
    for key, row in sorted(unique.items(), key=lambda pair: rank(pair[1])):
        if key and len(labels[key]) == 1:
            groups.setdefault(row.group, row)

    sizes = {"test": test, "validation": validation, "train": train}
    parts: dict[str, tuple[Item, ...]] = {}
    queues: list[list[Item]] = [[] for _ in range(classes)]
    for row in groups.values():
        queues[row.label].append(Item(row.text, row.label))
    for name, size in sizes.items():
        for label, queue in enumerate(queues):
            if len(queue) < size:
                raise InputError(
                    f"class {label} has {len(queue)} distinct texts left for the {name} split, "
                    f"{size} are wanted: ask for fewer"
                )
        parts[name] = tuple(queue[i] for i in range(size) for queue in queues)
        queues = [queue[size:] for queue in queues]
    return Splits(**parts)
