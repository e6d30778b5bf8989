"""The YAML file that tells an audit what models are scored on. docs/tasks.md describes it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from unmergeable.checkpoint.small_files import open_regular
from unmergeable.errors import InputError, clip, quoted
from unmergeable.evaluation.harness import harness_task
from unmergeable.evaluation.heads import Head
from unmergeable.evaluation.images import ImageTask
from unmergeable.evaluation.label_words import WordTask
from unmergeable.evaluation.prose import ProseTask
from unmergeable.evaluation.task import Item, Task
from unmergeable.evaluation.texts import TextTask
from unmergeable.evaluation.yaml_file import YamlFile

MAX_TOKENS, MAX_PIXELS = 1 << 20, 1 << 14
TEXT_KINDS = ("generic", "near", "in-domain")
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
    document = YamlFile.read(path)
    top = document.mapping(document.content, "the file", ("tasks",), ("texts",))
    entries = read_entries(document, top)
    texts = document.mapping(top.get("texts") or {}, "'texts'", (), TEXT_KINDS)
    pools = {kind: _texts(path.parent / str(texts[kind])) for kind in TEXT_KINDS if kind in texts}
    owners, tasks = tuple(entry.owner for entry in entries), tuple(entry.task for entry in entries)
    return TaskFile(owners, tasks, pools)


class Entry(NamedTuple):
    """One task of a file.

    Attributes:
        owner: 0 for the protected model and n for the n-th peer.
        task: what models are scored on.
        fields: as they stand in the file.
    """

    owner: int
    task: Task
    fields: Mapping[str, Any]


def read_entries(
    document: YamlFile, top: Mapping[str, Any], more: Sequence[str] = ()
) -> list[Entry]:
    """Reads the list `tasks` of a file; paths in it are relative to the file's folder.

    Args:
        document: the file.
        top: the mapping that holds the list.
        more: fields that a task may have besides those of its kind; the caller reads them.

    Raises:
        InputError: names the file and the line that is wrong.
    """
    listed = top["tasks"]
    if not isinstance(listed, list) or not listed:
        raise document.error(top, "'tasks' must be a list with at least two tasks")
    entries = []
    for entry in listed:
        if not isinstance(entry, dict):
            raise document.error(top, f"a task is a mapping of fields, not {quoted(entry)}")
        entries.append(Entry(_owner(document, entry), _task(document, entry, more), entry))
    names = [entry.task.name for entry in entries]
    if len(set(names)) < len(names):
        raise document.error(top, f"two tasks have one name: {clip(names)}")
    owners = [entry.owner for entry in entries]
    if 0 not in owners or not any(owners):
        raise document.error(
            top, "there must be a task 'of: protected' and one 'of: peer', or nothing can be said"
        )
    return entries


_COMMON = ("title", "source", "train", "validation", "fields")
_FIELDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "words": (("template", "words"), ()),
    "text": ((), ("head", "pooling", "labels", "tokens")),
    "image": ((), ("head", "pooling", "labels", "size")),
    "prose": ((), ("tokens",)),
}


def _owner(document: YamlFile, entry: Mapping[str, Any]) -> int:
    of = str(entry.get("of", ""))
    word, _, number = of.partition(" ")
    if of == "protected":
        return 0
    if word == "peer" and re.fullmatch(r"|[1-9][0-9]{0,3}", number):
        return int(number or 1)
    raise document.error(
        entry, f"'of' is {quoted(of)}: say whose task this is: protected, peer, peer 2, ..."
    )


def _task(document: YamlFile, entry: dict[str, Any], more: Sequence[str]) -> Task:
    what = f"task {quoted(entry.get('name', ''))}"
    kind = entry.get("kind")
    if kind == "harness":
        return _harness(document, entry, what, more)
    if not isinstance(kind, str) or kind not in _FIELDS:
        known = ", ".join([*_FIELDS, "harness"])
        raise document.error(entry, f"{what}: 'kind' is {quoted(kind)}; there is {known}")
    needed, optional_ = _FIELDS[str(kind)]
    needed = ("name", "of", "kind", "test", *needed)
    document.mapping(entry, what, needed, (*_COMMON, *optional_, *more))
    folder = document.path.parent
    fields = entry.get("fields") or {}
    if not isinstance(fields, dict) or not all(isinstance(v, str | int) for v in fields.values()):
        raise document.error(entry, f"{what}: 'fields' must be a mapping of names")
    tokens = entry.get("tokens", 128)
    if type(tokens) is not int or not 0 < tokens <= MAX_TOKENS:
        raise document.error(
            entry, f"{what}: 'tokens' is {quoted(tokens)}, no number from 1 to {MAX_TOKENS}"
        )
    names = entry.get("words") if kind == "words" else entry.get("labels")
    labels = [str(name) for name in names] if isinstance(names, list) else None
    splits: dict[str, tuple[Item, ...]] = {
        split: _items(folder / str(entry[split]), str(kind), labels, fields)
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
    pooling = entry.get("pooling", "mean")
    if pooling not in ("mean", "cls"):
        raise document.error(entry, f"{what}: 'pooling' is {quoted(pooling)}; there is mean, cls")
    head = Head(folder / str(entry["head"]), pooling) if "head" in entry else None
    try:
        if kind == "words":
            words = tuple(labels or ())
            return WordTask(template=str(entry["template"]), words=words, **common)
        if kind == "text":
            return TextTask(head=head, tokens=tokens, **common)
        if kind == "image":
            size = entry.get("size")
            if size is not None and (type(size) is not int or not 0 < size <= MAX_PIXELS):
                raise document.error(
                    entry, f"{what}: 'size' is {quoted(size)}, no number from 1 to {MAX_PIXELS}"
                )
            return ImageTask(head=head, size=size, **common)
        return ProseTask(tokens=tokens, **common)
    except InputError as error:
        raise document.error(entry, str(error).rstrip(".")) from None


def _harness(document: YamlFile, entry: dict[str, Any], what: str, more: Sequence[str]) -> Task:
    """A task that another library asks, which brings its own items."""
    needed = ("name", "of", "kind", "harness")
    document.mapping(entry, what, needed, ("title", "source", "limit", "harness_path", *more))
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
    if _is_folder(path):
        classes = labels or sorted(child.name for child in path.iterdir() if child.is_dir())
        try:
            return tuple(
                Item(str(image), number)
                for number, name in enumerate(classes)
                for image in sorted((path / name).iterdir())
                if image.suffix.lower() in _IMAGES
            )
        except OSError as error:
            raise InputError(f"cannot read {error.filename}: {error.strerror}.") from None
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
                    f"{path}, line {line}: the label {quoted(label)} is not one of the task's "
                    f"({clip(known, 400)})."
                )
            label = spellings[label.strip()]
        elif not isinstance(label, int) or isinstance(label, bool):
            raise InputError(
                f"{path}, line {line}: the label is {quoted(label)}, neither a number nor a name."
            )
        items.append(Item(str(path.parent / text) if kind == "image" else text, label))
    return tuple(items)


def _texts(path: Path) -> tuple[str, ...]:
    """Texts of a JSONL file (its field `text` or `image`), a folder, or the lines of a file."""
    if _is_folder(path):
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
        out.append(str(row["text"]) if row.get("text") else str(path.parent / str(row["image"])))
    return tuple(out)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that no file has; opening it says so
        return False


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:  # of numbers without end, too
            raise InputError(f"{path}, line {number}: not JSON: {clip(error)}.") from None
        if not isinstance(row, dict):
            found = quoted(row)
            raise InputError(f"{path}, line {number}: {found} is not an object with fields.")
        yield number, row


def _lines(path: Path) -> list[str]:
    """A file's lines. JSON may hold what `splitlines` ends a line at as well, such as U+2028."""
    try:
        with os.fdopen(open_regular(path), encoding="utf-8") as file:
            return file.read().split("\n")
    except (OSError, ValueError, InputError) as error:
        raise InputError(f"{path} cannot be read: {clip(error).rstrip('.')}.") from None
