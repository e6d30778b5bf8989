"""The YAML file that tells an audit what models are scored on. docs/tasks.md describes it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmergeable.errors import InputError
from unmergeable.extras import optional
from unmergeable.tasks.harness import harness_task
from unmergeable.tasks.heads import Head
from unmergeable.tasks.images import ImageTask
from unmergeable.tasks.prose import ProseTask
from unmergeable.tasks.task import Item, Task
from unmergeable.tasks.texts import TextTask
from unmergeable.tasks.words import WordTask

TEXT_KINDS = ("generic", "near", "in-domain")
_LINE = "\0line"
_IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".ppm", ".pgm"}


@dataclass(frozen=True)
class TaskFile:
    """What a task file holds.

    Attributes:
        owners: per task, 0 for the protected model and n for the n-th peer.
        tasks: in the file's order.
        texts: unlabelled texts (or paths of images) for the protected model's task, by kind.
    """

    owners: tuple[int, ...]
    tasks: tuple[Task, ...]
    texts: Mapping[str, tuple[str, ...]]


def read_tasks(path: str | Path) -> TaskFile:
    """Reads a task file; paths in it are relative to its folder.

    Raises:
        InputError: names the file and the line that is wrong.
    """
    path = Path(path)
    document = _Document.read(path)
    top = document.mapping(document.content, "the file", ("tasks",), ("texts",))
    entries = top["tasks"]
    if not isinstance(entries, list) or not entries:
        raise document.error(top, "'tasks' must be a list with at least two tasks")
    tasks, owners = [], []
    for entry in entries:
        if not isinstance(entry, dict):
            raise document.error(top, f"a task is a mapping of fields, not {entry!r}")
        owners.append(_owner(document, entry))
        tasks.append(_task(document, entry))
    names = [task.name for task in tasks]
    if len(set(names)) < len(names):
        raise document.error(top, f"two tasks have one name: {names}")
    if 0 not in owners or not any(owners):
        raise document.error(
            top, "there must be a task 'of: protected' and one 'of: peer', or nothing can be said"
        )
    texts = document.mapping(top.get("texts") or {}, "'texts'", (), TEXT_KINDS)
    pools = {kind: _texts(path.parent / texts[kind]) for kind in TEXT_KINDS if kind in texts}
    return TaskFile(tuple(owners), tuple(tasks), pools)


@dataclass(frozen=True)
class _Document:
    """A YAML document whose mappings remember the line they begin on."""

    path: Path
    content: Any

    @classmethod
    def read(cls, path: Path) -> _Document:
        yaml = optional("yaml")

        class Loader(yaml.SafeLoader):  # type: ignore[misc, name-defined]
            def construct_mapping(self, node: Any, deep: bool = False) -> dict[str, Any]:
                mapping: dict[str, Any] = super().construct_mapping(node, deep=True)
                mapping[_LINE] = node.start_mark.line + 1
                return mapping

        Loader.add_constructor(
            yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG,
            lambda loader, node: loader.construct_mapping(node, deep=True),
        )
        try:
            return cls(path, yaml.load(path.read_text(encoding="utf-8"), Loader=Loader))
        except yaml.YAMLError as error:
            raise InputError(f"{path} is not YAML: {error}") from None
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path} cannot be read: {error}") from None

    def error(self, mapping: Mapping[str, Any], sentence: str) -> InputError:
        return InputError(f"{self.path}, line {mapping.get(_LINE, 1)}: {sentence}.")

    def mapping(
        self, value: Any, what: str, needed: Sequence[str], optional_: Sequence[str]
    ) -> dict[str, Any]:
        """A mapping that has the needed fields and none that is unknown."""
        if not isinstance(value, dict):
            raise InputError(f"{self.path}: {what} must be a mapping of fields, not {value!r}.")
        for field in needed:
            if value.get(field) in (None, "", []):
                state = "empty" if field in value else "missing"
                raise self.error(value, f"{what}: the field {field!r} is {state}")
        known = {*needed, *optional_, _LINE}
        if unknown := [field for field in value if field not in known]:
            raise self.error(
                value,
                f"{what}: the field {unknown[0]!r} is unknown; there is "
                f"{', '.join([*needed, *optional_])}",
            )
        return value


_COMMON = ("title", "source", "train", "validation", "fields")
_FIELDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "words": (("template", "words"), ()),
    "text": ((), ("head", "pooling", "labels", "tokens")),
    "image": ((), ("head", "pooling", "labels", "size")),
    "prose": ((), ("tokens",)),
}


def _owner(document: _Document, entry: Mapping[str, Any]) -> int:
    of = str(entry.get("of", ""))
    word, _, number = of.partition(" ")
    if of == "protected":
        return 0
    if word == "peer" and (not number or (number.isdigit() and int(number) > 0)):
        return int(number or 1)
    raise document.error(
        entry, f"'of' is {of!r}: say whose task this is: protected, peer, peer 2, ..."
    )


def _task(document: _Document, entry: dict[str, Any]) -> Task:
    what = f"task {entry.get('name', '')!r}"
    kind = entry.get("kind")
    if kind == "harness":
        return _harness(document, entry, what)
    if kind not in _FIELDS:
        known = ", ".join([*_FIELDS, "harness"])
        raise document.error(entry, f"{what}: 'kind' is {kind!r}; there is {known}")
    needed, optional_ = _FIELDS[str(kind)]
    needed = ("name", "of", "kind", "test", *needed)
    document.mapping(entry, what, needed, (*_COMMON, *optional_))
    folder = document.path.parent
    names = entry.get("words") if kind == "words" else entry.get("labels")
    labels = [str(name) for name in names] if isinstance(names, list) else None
    splits: dict[str, tuple[Item, ...]] = {
        split: _items(folder / str(entry[split]), str(kind), labels, entry.get("fields") or {})
        for split in ("train", "validation", "test")
        if split in entry
    }
    if "validation" not in splits:  # choose coefficients on items that are not reported on
        splits["validation"], splits["test"] = splits["test"][::2], splits["test"][1::2]
    for split, items in splits.items():
        if not items:
            raise document.error(entry, f"{what}: {split} has no items")
    common: dict[str, Any] = {
        "name": str(entry["name"]),
        "title": str(entry.get("title", entry["name"])),
        "source": str(entry.get("source", "")),
        **splits,
    }
    head = None
    if "head" in entry:
        pooling = entry.get("pooling", "mean")
        if pooling not in ("mean", "cls"):
            raise document.error(entry, f"{what}: 'pooling' is {pooling!r}; there is mean, cls")
        head = Head(folder / str(entry["head"]), pooling)
    try:
        if kind == "words":
            words = tuple(labels or ())
            return WordTask(template=str(entry["template"]), words=words, **common)
        if kind == "text":
            return TextTask(head=head, tokens=int(entry.get("tokens", 128)), **common)
        if kind == "image":
            return ImageTask(head=head, size=entry.get("size"), **common)
        return ProseTask(tokens=int(entry.get("tokens", 128)), **common)
    except InputError as error:
        raise document.error(entry, str(error).rstrip(".")) from None


def _harness(document: _Document, entry: dict[str, Any], what: str) -> Task:
    """A task that another library asks, which brings its own items."""
    needed = ("name", "of", "kind", "harness")
    document.mapping(entry, what, needed, ("title", "source", "limit", "harness_path"))
    limit, path = entry.get("limit"), entry.get("harness_path")
    if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool)):
        raise document.error(entry, f"{what}: 'limit' is {limit!r}; give a whole number")
    if path is not None and not (document.path.parent / str(path)).is_dir():
        raise document.error(entry, f"{what}: 'harness_path' is {path!r}, which is no folder")
    try:
        return harness_task(
            str(entry["name"]),
            str(entry["harness"]),
            title=str(entry.get("title", "")),
            source=str(entry.get("source", "")),
            limit=limit,
            folder="" if path is None else document.path.parent / str(path),
        )
    except InputError as error:
        raise document.error(entry, str(error).rstrip(".")) from None


def _items(
    path: Path, kind: str, labels: Sequence[str] | None, fields: Mapping[str, str]
) -> tuple[Item, ...]:
    """Labelled items of a file, or of a folder of images with one folder per class."""
    if kind == "prose":
        return tuple(Item(text, 0) for text in _texts(path))
    if path.is_dir():
        classes = labels or sorted(child.name for child in path.iterdir() if child.is_dir())
        return tuple(
            Item(str(image), number)
            for number, name in enumerate(classes)
            for image in sorted((path / name).iterdir())
            if image.suffix.lower() in _IMAGES
        )
    text_field = fields.get("text", "image" if kind == "image" else "text")
    label_field = fields.get("label", "label")
    items = []
    for line, row in _json_lines(path):
        for field in (text_field, label_field):
            if row.get(field) in (None, ""):
                state = "empty" if field in row else "missing"
                raise InputError(f"{path}, line {line}: the field {field!r} is {state}.")
        text, label = str(row[text_field]), row[label_field]
        if isinstance(label, str):
            spellings = {name.strip(): number for number, name in enumerate(labels or ())}
            if label.strip() not in spellings:
                known = ", ".join(spellings) or "none; give the task 'labels'"
                raise InputError(
                    f"{path}, line {line}: the label {label!r} is not one of the task's ({known})."
                )
            label = spellings[label.strip()]
        elif not isinstance(label, int) or isinstance(label, bool):
            raise InputError(
                f"{path}, line {line}: the label is {label!r}, neither a number nor a name."
            )
        items.append(Item(str(path.parent / text) if kind == "image" else text, label))
    return tuple(items)


def _texts(path: Path) -> tuple[str, ...]:
    """Texts of a JSONL file (its field `text` or `image`), a folder, or the lines of a file."""
    if path.is_dir():
        return tuple(str(p) for p in sorted(path.rglob("*")) if p.suffix.lower() in _IMAGES)
    if path.suffix != ".jsonl":
        texts = tuple(line.strip() for line in _lines(path) if line.strip())
        if not texts:
            raise InputError(f"{path} has no texts: it is empty.")
        return texts
    out = []
    for line, row in _json_lines(path):
        if not (row.get("text") or row.get("image")):
            raise InputError(f"{path}, line {line}: the field 'text' is missing or empty.")
        out.append(str(row["text"]) if row.get("text") else str(path.parent / row["image"]))
    return tuple(out)


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}, line {number}: not JSON: {error}.") from None
        if not isinstance(row, dict):
            raise InputError(f"{path}, line {number}: {row!r} is not an object with fields.")
        yield number, row


def _lines(path: Path) -> list[str]:
    """A file's lines. JSON may hold what `splitlines` ends a line at as well, such as U+2028."""
    try:
        return path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}.") from None
