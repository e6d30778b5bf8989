"""Measures some of the kept cells again, drawn at random, and says whether they agree.

A cell agrees if it fails in both measurements, or if in both every task's items are answered alike,
up to a few: at most 2 % of them, or two. Other threads and processors add in another order, which
turns the answers that were nearly a tie. Seconds are not compared: they are the machine's.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import floor
from pathlib import Path
from typing import Any

from unmergeable.bench.field import artefact, kept, measure
from unmergeable.bench.field.columns import Column, method_rows
from unmergeable.bench.field.defended import defended
from unmergeable.bench.field.prepared_suite import open_scene
from unmergeable.bench.field.results import Results
from unmergeable.bench.field.suite import Suite
from unmergeable.errors import InputError

SHARE, LEAST = 0.02, 2
# Of a cell's inputs: what must be the same, and what a machine that trains its own may have else;
# tasks are known with their heads, which are trained with the experts.
_FIXED = ("base", "texts", "attack", "method", "code")
_TRAINED = ("tasks", "experts", "released")
# Parts of a cache folder that hold models and data; measurements are made again.
_BUILT = ("models", "packages", "data", "field/models")


@dataclass(frozen=True)
class Checked:
    """A cell that was measured again.

    Attributes:
        place: which.
        key: of the kept cell.
        agrees: whether it does.
        words: why, for people.
    """

    place: str
    key: str
    agrees: bool
    words: str


def check(
    suites: Sequence[Suite],
    out: Path,
    cache: Path,
    count: int,
    *,
    seed: int = 0,
    quick: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> list[Checked]:
    """Measures cells again.

    Args:
        suites: whose kept cells are drawn from, as far as there are any.
        out: the folder with the files of cells.
        cache: where models are; scores and cells in it are not looked at.
        count: how many cells; all if there are fewer.
        seed: of the draw.
        quick: whether the cells are those of quick runs.
        say: is told of each cell.

    Raises:
        InputError: no cells are kept there.
    """
    found: dict[tuple[str, str], tuple[Suite, kept.Kept]] = {}
    for suite in suites:
        path = kept.path_of(out, kept.name_of(suite.name, quick))
        if path.exists():
            one = kept.read(path)
            for where, cell in one.cells.items():
                if cell is not None:
                    found[suite.name, where] = (suite, one)
    if not found:
        names = ", ".join(suite.name for suite in suites)
        kind = "quick runs of " if quick else ""
        raise InputError(f"{out} keeps no cells of {kind}{names}: there is nothing to check.")
    drawn = random.Random(seed).sample(sorted(found), min(count, len(found)))
    checked = []
    with tempfile.TemporaryDirectory(prefix="unmergeable-check-") as folder:
        empty = Path(folder)
        for part in _BUILT:
            (cache / part).mkdir(parents=True, exist_ok=True)
            (empty / part).parent.mkdir(parents=True, exist_ok=True)
            (empty / part).symlink_to((cache / part).resolve())
        # Cells of one release together, so that its models are loaded once.
        for name, where in sorted(drawn):
            again = _again(*found[name, where], where, empty)
            checked.append(again)
            state = "agrees" if again.agrees else "DISAGREES"
            say(f"[{len(checked)}/{len(drawn)}] {name}: {where} {state}: {again.words}")
    return checked


def _again(suite: Suite, one: kept.Kept, where: str, cache: Path) -> Checked:
    before = one.cells[where]
    assert before is not None
    group, name, seed, attack, method = where.split("/")
    rows = {row.name: row for row in Results(one).defences}
    if name not in rows:
        raise InputError(f"the row {name!r} of {where} is known neither here nor to the file.")
    scene = open_scene(suite, cache)
    methods = (method,) if method else ()
    column = Column(group, rows[name], int(seed), attack, methods, bool(one.index["quick"]))
    made = defended(scene, rows[name], int(seed))
    if made.folder is None:
        return Checked(where, before["key"], False, f"the defence refused here: {made.refused}")
    row = method_rows(methods, column.quick)[0] if methods else None
    inputs = artefact.inputs(scene, column, made.folder, row)
    (key,) = measure.run(measure.Job(suite, cache, column, made.folder, ((method, inputs),)))
    after = artefact.read(cache, key)
    assert after is not None
    agrees, words = compare(before, after)
    return Checked(where, before["key"], agrees, words)


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether two measurements of a cell agree, and words for it."""
    old, new = before["inputs"], after["inputs"]
    if changed := [part for part in _FIXED if old[part] != new[part]]:
        return False, f"it is another cell here: {', '.join(changed)} changed"
    note = ""
    if trained := [part for part in _TRAINED if old[part] != new[part]]:
        note = (
            f"; its {' and '.join(trained)} were made anew here and are not the file's to the bit"
        )
    if bool(before["reason"]) != bool(after["reason"]):
        which = "then" if before["reason"] else "now"
        reason = before["reason"] or after["reason"]
        return False, f"it failed {which} and not both times ({reason}){note}"
    if before["reason"]:
        return True, f"it fails in both{note}"
    told, agrees = [], True
    for name, ours, theirs in _pairs(before, after):
        items = artefact.unpack(ours).marks
        other = artefact.unpack(theirs).marks
        if len(items) != len(other):
            return False, f"{name} has {len(other)} items here and {len(items)} in the file{note}"
        differ = sum(abs(a - b) > 1 / 4 for a, b in zip(items, other, strict=True))
        agrees &= differ <= max(LEAST, floor(SHARE * len(items)))
        told.append(f"{differ} of {len(items)} answers of {name} differ")
    return agrees, ", ".join(told) + note


def _pairs(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The marks of both, by task; of controls, by model and task."""
    pairs = [(name, marks, after["marks"][name]) for name, marks in before["marks"].items()]
    for model, rows in before.get("singles", {}).items():
        theirs = after["singles"][model]
        pairs += [(f"{name} ({model})", marks, theirs[name]) for name, marks in rows.items()]
    return pairs
