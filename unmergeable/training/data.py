"""What a model is trained on: a JSONL file, or a folder of images with one folder per class."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from unmergeable.errors import InputError
from unmergeable.evaluation.label_words import WordTask
from unmergeable.evaluation.task import Item

Kind = Literal["text", "completion", "label", "image"]
_FIELDS: dict[frozenset[str], Kind] = {
    frozenset({"text"}): "text",
    frozenset({"prompt", "completion"}): "completion",
    frozenset({"text", "label"}): "label",
}
_SHAPES = "text; or prompt and completion; or text and label"
_IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".ppm", ".pgm"}
HELD_OUT, MOST_HELD_OUT = 0.1, 256


@dataclass(frozen=True)
class Items:
    """Items to train on.

    Attributes:
        kind: what an item is.
        rows: per item a text, a prompt or the path of an image; and its answer: None for a text,
            the completion of a prompt, the number of a class.
        classes: names of the classes, by number; empty where the data give numbers.
    """

    kind: Kind
    rows: tuple[tuple[str, Any], ...]
    classes: tuple[str, ...] = ()

    @classmethod
    def of_words(cls, task: WordTask, items: Iterable[Item]) -> Items:
        """Items of a label-word task as prompts with their label word as completion."""
        rows = tuple((task.prompt(item.text), task.words[item.label]) for item in items)
        return cls("completion", rows)

    @property
    def labels(self) -> int:
        """How many classes there are, as far as the items show; 0 for items without labels."""
        if self.kind not in ("label", "image"):
            return 0
        return max(len(self.classes), 1 + max(int(label) for _, label in self.rows))

    @property
    def content_hash(self) -> str:
        """SHA-256 over kind, rows and classes; of images the bytes."""
        rows: Sequence[Any] = self.rows
        if self.kind == "image":
            rows = [
                (hashlib.sha256(Path(path).read_bytes()).hexdigest(), label)
                for path, label in self.rows
            ]
        content = json.dumps([self.kind, rows, self.classes])
        return hashlib.sha256(content.encode()).hexdigest()

    def split(self, seed: int) -> tuple[Items, Items]:
        """Holds a tenth out for validation, and at most 256 items.

        Raises:
            InputError: fewer than two items.
        """
        if len(self.rows) < 2:
            raise InputError(
                f"there is {len(self.rows)} item: none is left to validate on. Give --validation."
            )
        order = list(range(len(self.rows)))
        random.Random(seed).shuffle(order)
        held = max(1, min(MOST_HELD_OUT, int(HELD_OUT * len(order))))
        return self._some(sorted(order[held:])), self._some(sorted(order[:held]))

    def _some(self, rows: Sequence[int]) -> Items:
        return replace(self, rows=tuple(self.rows[row] for row in rows))


def read_items(path: str | Path, classes: Sequence[str] = ()) -> Items:
    """Reads training or validation items.

    Labels are whole numbers from 0, or names, which are numbered in alphabetical order.

    Args:
        path: a JSONL file, whose lines all have the same fields: text; or prompt and completion;
            or text and label. Or a folder of images with one folder per class.
        classes: names of the classes, where other items have numbered them already.

    Raises:
        InputError: names the file, the line and the field that is wrong.
    """
    path = Path(path)
    items = _images(path, classes) if path.is_dir() else _lines(path, classes)
    if not items.rows:
        raise InputError(f"{path} has no items.")
    return items


def _images(folder: Path, classes: Sequence[str]) -> Items:
    found = sorted(child.name for child in folder.iterdir() if child.is_dir())
    if not found:
        raise InputError(f"{folder} has no folders: images need one folder per class.")
    names = list(classes) or found
    if unknown := sorted(set(found) - set(names)):
        raise InputError(f"{folder / unknown[0]}: the class is none of {', '.join(names)}.")
    rows = [
        (str(image), number)
        for number, name in enumerate(names)
        if (folder / name).is_dir()
        for image in sorted((folder / name).iterdir())
        if image.suffix.lower() in _IMAGES
    ]
    return Items("image", tuple(rows), tuple(names))


def _lines(path: Path, classes: Sequence[str]) -> Items:
    first: frozenset[str] | None = None
    rows: list[tuple[str, Any]] = []
    places: list[int] = []
    for number, row in _objects(path):
        where = f"{path}, line {number}"
        fields = frozenset(row)
        if first is None:
            if fields not in _FIELDS:
                raise InputError(
                    f"{where}: the fields are {', '.join(sorted(fields))}; they must be {_SHAPES}."
                )
            first = fields
        for field in sorted(first):
            if row.get(field) in (None, "") or (field != "label" and not _is_text(row[field])):
                state = "missing" if field not in row else "empty or no text"
                raise InputError(f"{where}: the field {field!r} is {state}.")
        if strange := sorted(fields - first):
            raise InputError(
                f"{where}: the field {strange[0]!r} is unknown; the first line has "
                f"{', '.join(sorted(first))}."
            )
        places.append(number)
        key = "prompt" if "prompt" in row else "text"
        rows.append((row[key], row.get("completion", row.get("label"))))
    if first is None:
        raise InputError(f"{path} has no items.")
    kind = _FIELDS[first]
    if kind != "label":
        return Items(kind, tuple(rows))
    return _labelled(path, rows, places, classes)


def _labelled(
    path: Path, rows: list[tuple[str, Any]], places: list[int], classes: Sequence[str]
) -> Items:
    """Numbers the labels."""
    named = isinstance(rows[0][1], str)
    names = list(classes) or (sorted({str(label) for _, label in rows}) if named else [])
    out = []
    for (text, label), line in zip(rows, places, strict=True):
        where = f"{path}, line {line}: the field 'label' is {label!r}"
        if isinstance(label, str) != named or isinstance(label, bool):
            raise InputError(f"{where}, and the first line's is {rows[0][1]!r}: use one kind.")
        if named and label not in names:
            raise InputError(
                f"{where}, none of {', '.join(names) or 'the classes, which are numbers'}."
            )
        if not named and (not isinstance(label, int) or label < 0):
            raise InputError(f"{where}: give a name or a whole number from 0.")
        out.append((text, names.index(label) if named else label))
    return Items("label", tuple(out), tuple(names))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}.") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{path}, line {number}: not JSON: {error}.") from None
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number}: {row!r} is not an object with fields.")
        yield number, row
