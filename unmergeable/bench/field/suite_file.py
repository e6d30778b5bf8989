"""The YAML file of a suite of one's own: base, experts, tasks, rows. docs/field.md describes it.

Tasks are written as in an audit's [task file][unmergeable.evaluation.task_file]; each says besides
where its expert is, or how it is made. Whatever can be told without training is checked here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from unmergeable.architectures.layout import Layout
from unmergeable.attacks.rebuilt import is_rebuilt
from unmergeable.auditing import memory_plan
from unmergeable.auditing.fitting import check_fits
from unmergeable.bench.field.defences import chosen_defences
from unmergeable.bench.field.index import QUICK
from unmergeable.bench.field.suite import Cache, Suite, TaskRecipe
from unmergeable.bench.field.suites import SUITES
from unmergeable.checkpoint.folder import MANIFEST, ModelFolder, open_folder
from unmergeable.checkpoint.hub import HubId, resolve
from unmergeable.checkpoint.remote import is_url
from unmergeable.errors import InputError, UnmergeableError, quoted
from unmergeable.evaluation.images import ImageTask
from unmergeable.evaluation.partials import Partial
from unmergeable.evaluation.task import Task
from unmergeable.evaluation.task_file import Entry, read_entries
from unmergeable.evaluation.texts import TextTask
from unmergeable.evaluation.yaml_file import LINE, YamlFile
from unmergeable.settings import Number, read
from unmergeable.training.experts import HeadRecipe, Recipe

ENDINGS = (".yaml", ".yml")
MOST = 8  # tasks: more models than that in one merge are in no table of the literature
_NAME = re.compile(r"\w[\w-]{0,59}", re.ASCII)
_FLOAT = 4  # bytes
_GB = 1e9


def read_suite(path: str | Path) -> Suite:
    """Reads a suite file; paths in it are relative to its folder.

    Raises:
        InputError: names the file and the line that is wrong; models that do not fit together.
        DownloadError: a Hub id that the Hub does not give.
        UnsupportedError: an architecture that nobody declared.
    """
    path = Path(path)
    document = YamlFile.read(path)
    top = document.mapping(
        document.content, "the file", ("base", "tasks"), ("name", "title", "defences")
    )
    name = str(top.get("name") or path.stem)
    if not _NAME.fullmatch(name) or name.endswith(QUICK) or name in SUITES:
        raise document.error(
            top,
            f"the suite is called {quoted(name)}: give a 'name' of letters, digits, - and _ that "
            f"is none of {', '.join(SUITES)} and does not end in {QUICK}",
        )
    title = top.get("title") or top["base"]
    if not isinstance(title, str) or not title.isprintable():
        raise document.error(top, f"'title' is {quoted(title)}: give one line of text")
    rows = _rows(document, top)
    entries = sorted(read_entries(document, top, ("expert", "recipe")), key=lambda e: e.owner)
    if [entry.owner for entry in entries] != list(range(len(entries))) or len(entries) > MOST:
        raise document.error(
            top,
            "each expert has one task, up to "
            f"{MOST} in all: 'of' is once protected, once peer, and then peer 2, peer 3, ...",
        )
    recipes = [_recipe(document, entry) for entry in entries]
    _check_training(document, entries[0], rows)
    base = open_folder(_model(document, top, "base", "the base"))
    tasks = [
        TaskRecipe(
            entry.task.name,
            Partial(_given, entry.task),
            recipe,
            expert=_model(document, entry.fields, "expert", f"task {quoted(entry.task.name)}")
            if "expert" in entry.fields
            else None,
        )
        for entry, recipe in zip(entries, recipes, strict=True)
    ]
    layout = _layout(document, top, base)
    for entry, task in zip(entries, tasks, strict=True):
        if task.expert is not None:
            _check_expert(document, entry, layout, base, task.expert)
    parameters = sum(map(prod, base.shapes.values()))
    made = len(chosen_defences(rows)) + sum(task.expert is None for task in tasks)
    names = tuple(task.name for task in tasks)
    return Suite(
        name=name,
        title=title,
        base=Partial(_given, base.local),
        tasks=tuple(tasks),
        pair=(names[0], names[1]),
        crowd=names,
        disk=made * parameters * _FLOAT / _GB,
        memory=memory_plan.needed(parameters, memory_plan.HOST)
        / _GB,  # more: once a device is known
        defences=rows,
        own=True,
    )


def _given(value: Any, cache: Cache = None) -> Any:
    """What a suite of one's own has, where others build it from packages."""
    return value


def _rows(document: YamlFile, top: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the rows; none for the usual ones."""
    listed = top.get("defences") or []
    if not isinstance(listed, list):
        raise document.error(top, f"'defences' must be a list of rows, not {quoted(listed)}")
    rows = tuple(map(str, listed))
    try:
        chosen_defences(rows)
    except InputError as error:
        raise document.error(top, f"'defences': {str(error).rstrip('.')}") from None
    return rows


def _recipe(document: YamlFile, entry: Entry) -> Recipe:
    """How a task's expert is made, or would be, by a defence that trains."""
    task, fields = entry.task, entry.fields
    what = f"task {quoted(task.name)}"
    if not _NAME.fullmatch(task.name):
        raise document.error(fields, f"{what}: give a name of letters, digits, - and _")
    if "expert" not in fields and "recipe" not in fields:
        raise document.error(
            fields, f"{what}: say where its 'expert' is, or give a 'recipe' to make it"
        )
    trained = "expert" not in fields
    if trained and not task.train:
        raise document.error(
            fields, f"{what}: its expert is to be made from its 'train' items, and it has none"
        )
    given = fields.get("recipe", {})
    known = _settings(with_head=trained and _takes_head(task))
    found = document.mapping(given, f"{what}: 'recipe'", (), tuple(known))
    try:
        values = read(known, {k: v for k, v in found.items() if k != LINE}, what)
    except InputError as error:
        raise document.error(found, f"{what}: {str(error).rstrip('.')}") from None
    if trained and _takes_head(task):
        return HeadRecipe(pooling=fields.get("pooling", "mean"), **values)
    return Recipe(**values)


def _check_training(document: YamlFile, owner: Entry, rows: tuple[str, ...]) -> None:
    """Refuses to train in an expert's place in another way than that expert was trained."""
    training = [row.name for row in chosen_defences(rows) if row.trained]
    if training and owner.task.train and "recipe" not in owner.fields:
        raise document.error(
            owner.fields,
            f"task {quoted(owner.task.name)}: {', '.join(training)} train an expert in place of "
            "the one that is given: say in its 'recipe' how that one was trained, or list "
            "'defences' that do not train",
        )


def _takes_head(task: Task) -> bool:
    """Whether a head is to be trained with the task's expert."""
    return isinstance(task, TextTask | ImageTask) and task.head is None


def _settings(with_head: bool) -> dict[str, Number]:
    usual = HeadRecipe() if with_head else Recipe()
    found = {
        "steps": Number("optimiser steps", usual.steps, low=1, whole=True),
        "batch": Number("items a step", usual.batch, low=1, whole=True),
        "rate": Number("peak learning rate", usual.rate, above=True),
        "decay": Number("weight decay", usual.decay),
        "seed": Number("of the items' order", usual.seed, whole=True),
    }
    if isinstance(usual, HeadRecipe):
        found["penalty"] = Number("of the probe that the head starts from", usual.penalty)
    return found


def _model(document: YamlFile, fields: Mapping[str, Any], field: str, what: str) -> Path:
    """The folder of a model on this machine: one beside the file, or a download."""
    given = fields[field]
    if not isinstance(given, str) or not given:
        raise document.error(
            fields, f"{what}: {field!r} is {quoted(given)}: give a folder or a Hub id"
        )
    try:
        beside = document.path.parent / given
        if beside.is_dir():
            return beside
        if HubId.of(given) is None:
            raise InputError(f"{beside} is no folder, and {quoted(given)} is no Hub id.")
        return resolve(given if is_url(given) else f"hf://{given}")
    except (UnmergeableError, OSError, ValueError) as error:
        raise document.error(fields, f"{what}: {str(error).rstrip('.')}") from None


def _layout(document: YamlFile, top: Mapping[str, Any], base: ModelFolder) -> Layout:
    if base.is_private or (base.path / MANIFEST).exists() or is_rebuilt(base):
        raise document.error(
            top,
            f"the base {base.path} is not public as it stands: a thief has the one that it was "
            "made from. Give that one",
        )
    layout = Layout.of(base.config, base.shapes)
    layout.check_plain("merged")
    return layout


def _check_expert(
    document: YamlFile, entry: Entry, layout: Layout, base: ModelFolder, expert: Path
) -> None:
    """Refuses what is no open expert of the base."""
    what = f"task {quoted(entry.task.name)}"
    try:
        folder = open_folder(expert)
        if (folder.path / MANIFEST).exists() or is_rebuilt(folder):
            raise InputError(f"{expert} is protected already: give the expert as it was before.")
        check_fits(layout, base, folder)
    except InputError as error:
        raise document.error(
            entry.fields, f"{what}: its expert is none of this base: {str(error).rstrip('.')}"
        ) from None
