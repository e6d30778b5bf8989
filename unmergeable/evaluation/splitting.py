"""From raw labelled texts to train, validation and test: deduplicated, leak-free and balanced."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from unmergeable.errors import InputError
from unmergeable.evaluation.task import Item


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
    """The text in single spaces, cut after this many characters, at a word where it has one."""
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

    groups: dict[str, Raw] = {}
    for key, row in sorted(unique.items(), key=lambda pair: _rank(seed, pair[1].text)):
        if key and len(labels[key]) == 1:
            groups.setdefault(row.group, row)

    parts: dict[str, tuple[Item, ...]] = {}
    queues = _queues(groups.values(), classes)
    for name, size in (("test", test), ("validation", validation), ("train", train)):
        parts[name] = _balanced(queues, size, name)
        queues = [queue[size:] for queue in queues]
    return Splits(**parts)


def split_groups(
    raw: Iterable[Raw], classes: int, train: int, validation: int, test: int, seed: int = 0
) -> Splits:
    """Balance the classes, and cut between groups: all of a group lies in one split.

    For items of which a group holds many, such as the letters of one family of fonts; nothing is
    taken for a duplicate. Groups go to test until each class has enough, then to validation; all
    others are for training. Of test and of validation no group makes up more than half of a class,
    so a split is not about a single group. The choice depends on the items and the seed alone, as
    in `split`.

    Args:
        raw: Labelled items with their groups.
        classes: Number of classes.
        train: Items per class in the train split.
        validation: Items per class in the validation split.
        test: Items per class in the test split.
        seed: Changes which groups go where.

    Returns:
        The splits, each class equally frequent, in an order that mixes classes and groups.

    Raises:
        InputError: A class has too few items.
    """
    by_group: dict[str, list[Raw]] = defaultdict(list)
    for row in raw:
        by_group[row.group].append(row)
    left = sorted(by_group, key=lambda group: _rank(seed, group))
    parts: dict[str, tuple[Item, ...]] = {}
    for name, size in (("test", test), ("validation", validation), ("train", train)):
        chosen: list[Raw] = []
        counts = [0] * classes
        while left and (name == "train" or min(counts) < size):
            taken = [0] * classes
            for row in sorted(by_group[left.pop(0)], key=lambda row: _rank(seed, row.text)):
                if name == "train" or 2 * taken[row.label] < size:
                    taken[row.label] += 1
                    chosen.append(row)
            counts = [old + new for old, new in zip(counts, taken, strict=True)]
        chosen.sort(key=lambda row: _rank(seed, row.text))
        parts[name] = _balanced(_queues(chosen, classes), size, name)
    return Splits(**parts)


def _rank(seed: int, text: str) -> bytes:
    """What an order that nobody chose is sorted by."""
    return hashlib.sha256(f"{seed}\n{text}".encode()).digest()


def _queues(rows: Iterable[Raw], classes: int) -> list[list[Item]]:
    """The items of each class."""
    queues: list[list[Item]] = [[] for _ in range(classes)]
    for row in rows:
        queues[row.label].append(Item(row.text, row.label))
    return queues


def _balanced(queues: list[list[Item]], size: int, name: str) -> tuple[Item, ...]:
    """The first items of each class, the classes in turn."""
    for label, queue in enumerate(queues):
        if len(queue) < size:
            raise InputError(
                f"class {label} has {len(queue)} distinct texts left for the {name} split, "
                f"{size} are wanted: ask for fewer"
            )
    return tuple(queue[i] for i in range(size) for queue in queues)
