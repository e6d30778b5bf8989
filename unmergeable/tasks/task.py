"""A task: labelled texts, a prompt, and one word per label to be scored as the next token."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Literal, NamedTuple

from unmergeable.errors import InputError

Split = Literal["train", "validation", "test"]


class Item(NamedTuple):
    """One labelled text; `label` is an index into the task's `words`."""

    text: str
    label: int


@dataclass(frozen=True)
class Task:
    """A classification task whose answer is the next token of a prompt.

    Attributes:
        name: Short identifier.
        title: What people see in a table.
        template: The prompt; holds ``{text}`` once and ends where the label word begins.
        words: One label word per class, leading space included where the tokenizer wants it.
        train: Items to learn from.
        validation: Items to choose settings on.
        test: Items to report on.
        source: Where the texts come from, with their licence.
    """

    name: str
    title: str
    template: str
    words: tuple[str, ...]
    train: tuple[Item, ...]
    validation: tuple[Item, ...]
    test: tuple[Item, ...]
    source: str = ""

    def __post_init__(self) -> None:
        if self.template.count("{text}") != 1:
            raise InputError(
                f"the template of task {self.name} is {self.template!r}: it must hold {{text}} once"
            )
        if len(self.words) < 2:
            raise InputError(
                f"task {self.name} has {len(self.words)} label words: give two or more"
            )
        for item in self.train + self.validation + self.test:
            if not 0 <= item.label < len(self.words):
                raise InputError(
                    f"task {self.name} has an item with label {item.label}: "
                    f"labels run from 0 to {len(self.words) - 1}"
                )

    def items(self, split: Split, limit: int | None = None) -> tuple[Item, ...]:
        """The items of a split, or its first `limit` ones."""
        if split not in ("train", "validation", "test"):
            raise InputError(f"split {split!r} is unknown: use train, validation or test")
        chosen: tuple[Item, ...] = getattr(self, split)
        return chosen[:limit]

    def prompt(self, item: Item) -> str:
        """The text a model reads before it names the label."""
        # not str.format: the text may hold braces
        return self.template.replace("{text}", item.text)

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over everything a score depends on: prompt, words and items, in their order."""
        content = [
            getattr(self, field.name)
            for field in fields(self)
            if field.name not in ("title", "source")
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()
