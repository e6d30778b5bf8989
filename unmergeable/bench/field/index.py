"""What a suite's run knows its cells by: from each place in the grid to the artefact's key.

What [`kept`][unmergeable.bench.field.kept] keeps is gathered from it, so that results of earlier
runs stand beside the new ones without building anything again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unmergeable.bench.field.artefact import CODE, group_names
from unmergeable.bench.field.columns import CROWD_GROUP, PAIR_GROUP, plugins
from unmergeable.bench.field.defences import FieldDefence
from unmergeable.bench.field.defended import Defended
from unmergeable.bench.field.prepared_suite import Scene, artefact_of, weights_hash
from unmergeable.evaluation import store

Index = Mapping[str, Any]
QUICK = "-quick"  # how the names of quick runs end


def path_of(cache: Path, suite: str, quick: bool) -> Path:
    """Where a suite's index is."""
    return cache / "field" / f"index-{suite}{QUICK if quick else ''}.json"


def read(cache: Path, suite: str, quick: bool) -> dict[str, Any] | None:
    """A suite's index; None if it was never run with this code, or is damaged."""
    found = store.kept(path_of(cache, suite, quick))
    return found if found and found["code"] == CODE else None


def write(
    scene: Scene,
    made: Collection[tuple[FieldDefence, int, Defended]],
    cells: Mapping[str, str | None],
    quick: bool,
) -> Path:
    """Writes a suite's index; places of earlier runs of the same models stay.

    Args:
        scene: of the suite.
        made: the protected models, with their defence and seed.
        cells: the artefact's key, by place; None where its protected model was not made yet.
        quick: whether these are cells of a quick run.
    """
    document = of_scene(scene, quick)
    document["defended"] = {
        f"{defence.name}/{seed}": {
            "artefact": one.artefact,
            "seconds": one.seconds,
            "size": one.size,
            "refused": one.refused,
            "busy": one.busy,
        }
        for defence, seed, one in made
    }
    # What the page must know of packages that may not be installed where it is written.
    document["attacks"] = {
        name: {"title": attack.title, "stage": attack.stage} for name, attack in plugins().items()
    }
    document["rows"] = {defence.name: asdict(defence) for defence, *_ in made}
    old = read(scene.cache, scene.suite.name, quick)
    same = old and all(old[part] == document[part] for part in ("base", "tasks", "groups"))
    document["cells"] = dict(cells)
    if old and same:
        for part in ("defended", "rows", "attacks"):
            document[part] = {**old.get(part, {}), **document[part]}
        known = {where: key for where, key in document["cells"].items() if key}
        document["cells"] |= {**old["cells"], **known}
    path = path_of(scene.cache, scene.suite.name, quick)
    store.keep(path, document)
    return path


def of_scene(scene: Scene, quick: bool) -> dict[str, Any]:
    """What an index says of the models and tasks, before anything is protected or measured."""
    suite = scene.suite
    return {
        "code": CODE,
        "suite": suite.name,
        "title": suite.title,
        "quick": quick,
        "base": weights_hash(scene.base),
        "groups": {group: list(group_names(scene, group)) for group in (PAIR_GROUP, CROWD_GROUP)},
        "tasks": {
            name: {
                "title": task.title,
                "source": task.source,
                "hash": task.content_hash,
                "items": {part: len(task.items(part)) for part in ("train", "validation", "test")},  # type: ignore[arg-type]
                "note": suite[name].note,
                "expert": weights_hash(scene.experts[name]),
                "folder": artefact_of(scene.experts[name]),
            }
            for name, task in scene.tasks.items()
        },
        "open_size": sum(
            file.stat().st_size
            for file in scene.experts[scene.owner.name].rglob("*")
            if file.is_file()
        ),
    }
