"""A cell of the field benchmark on disk: one small JSON file, named after the hash of its inputs.

It holds how every test item was answered, so that every figure and its interval can be worked out
again from it alone.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from unmergeable.auditing.cells import Measurement
from unmergeable.auditing.ensemble import Row
from unmergeable.bench.field.columns import CROWD_GROUP, Column
from unmergeable.bench.field.prepared_suite import Scene, weights_hash
from unmergeable.evaluation import store
from unmergeable.evaluation.scoring import Score

CODE = 1  # raise it when the same inputs would give another figure


def group_names(scene: Scene, group: str) -> tuple[str, ...]:
    """The names of a group's tasks, the owner's first."""
    return scene.suite.crowd if group == CROWD_GROUP else scene.suite.pair


def inputs(scene: Scene, column: Column, released: Path, row: Row | None) -> dict[str, Any]:
    """Everything that a cell depends on, JSON-able.

    Args:
        scene: the suite's models and tasks.
        column: which attack on which defence.
        released: the protected model's folder.
        row: the merge method; None where there is none.
    """
    return {
        **_surroundings(scene, column.group),
        "released": weights_hash(released),
        "attack": column.attack,
        "method": row and [row.name, row.settings, row.scales, row.wide],
        "code": CODE,
    }


@cache
def _surroundings(scene: Scene, group: str) -> dict[str, Any]:
    """What all cells of a group share."""
    names = group_names(scene, group)
    return {
        "base": weights_hash(scene.base),
        "experts": [weights_hash(scene.experts[name]) for name in names],
        "tasks": [task.content_hash for task in scene.scored(names)],
        "texts": store.digest({"texts": scene.texts}),
    }


def path_of(folder: Path, key: str) -> Path:
    """Where, in a cache folder, the cell of that key is, or would be."""
    return folder / "field" / "cells" / key[:2] / f"{key}.json"


def read(folder: Path, key: str) -> dict[str, Any] | None:
    """A cell; None if it was not measured, or is damaged."""
    return store.kept(path_of(folder, key))


def key_of(cell_inputs: Mapping[str, Any]) -> str:
    """The name of the cell with these inputs."""
    return store.digest(cell_inputs)[:16]


def content(found: Measurement, names: Sequence[str]) -> dict[str, Any]:
    """A measured cell, JSON-able; `names` are those of the tasks it was scored on."""
    scores = found.scores if not found.reason else ()
    return {
        "reason": found.reason,
        "label": found.label,
        "tried": found.tried,
        "price": found.price.document(),
        "seconds": round(found.seconds, 3),
        "marks": {name: pack(score) for name, score in zip(names, scores, strict=False)},
    }


def pack(score: Score) -> str:
    """Marks as one letter an item: "1" right, "0" wrong.

    Where some lie between, as of texts whose tokens are guessed, a byte an item, after a colon.
    """
    if all(mark in (0, 1) for mark in score.marks):
        return "".join("1" if mark else "0" for mark in score.marks)
    shares = bytes(round(255 * mark) for mark in score.marks)
    return ":" + base64.b64encode(shares).decode()


def unpack(marks: str) -> Score:
    """What `pack` made, as a score."""
    if marks.startswith(":"):
        return Score(tuple(share / 255 for share in base64.b64decode(marks[1:])))
    return Score(tuple(float(mark) for mark in marks))
