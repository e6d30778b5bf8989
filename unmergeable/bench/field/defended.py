"""Protected experts as artefacts: made once, kept with what they cost their owner."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from unmergeable.bench.data.wordnet import lines
from unmergeable.bench.field.defences import FieldDefence
from unmergeable.bench.field.prepared_suite import Scene, artefact_of, weights_hash
from unmergeable.checkpoint.companions import RELOCATION
from unmergeable.errors import InputError, UnmergeableError
from unmergeable.evaluation import store
from unmergeable.keys.key import Key
from unmergeable.machine import busy
from unmergeable.protection.protect import protect
from unmergeable.relocation.regrowth import EFFORTS
from unmergeable.relocation.relocate import relocate
from unmergeable.training.config import TrainConfig
from unmergeable.training.run import train

CODE = 2  # raise it when the same inputs would give another model, or another manifest
_ABOUT = "about.json"


@dataclass(frozen=True, eq=False)
class Defended:
    """A protected expert.

    Attributes:
        folder: the model; None where the defence refused.
        artefact: the name of its artefact.
        seconds: that its owner spent, training included.
        size: of the folder, in bytes.
        notes: what the defence itself measured.
        refused: why there is no model.
        busy: the machine's load average when it was made, per processor.
    """

    folder: Path | None
    artefact: str
    seconds: float
    size: int
    notes: Mapping[str, Any]
    refused: str
    busy: float


def defended(scene: Scene, defence: FieldDefence, seed: int) -> Defended:
    """The owner's expert under a defence, made if it is not there.

    What a defence refuses is kept, too: asking again would give the same answer.
    """
    original = scene.experts[scene.owner.name]
    if not (defence.trained or defence.chain):
        size = _size(original)
        return Defended(original, artefact_of(original), 0.0, size, {}, "", 0.0)
    inputs: dict[str, Any] = {
        "base": weights_hash(scene.base),
        "expert": "" if defence.trained else weights_hash(original),
        "defence": [defence.trained, defence.chain, defence.settings],
        "seed": seed,
        "calibration": sha256(json.dumps(scene.calibration).encode()).hexdigest(),
        "code": CODE,
    }
    if defence.private:
        inputs["private"] = asdict(EFFORTS[defence.private])
    if defence.trained:
        head = getattr(scene.owner, "head", None)
        try:
            items, held = scene.lessons()
        except InputError as error:
            return Defended(None, "", 0.0, 0, {}, str(error), 0.0)
        inputs |= {
            "items": [items.content_hash, held.content_hash],
            "head": head and head.content_hash,
            "config": repr(_config(scene, defence, seed)),
        }

    def make(out: Path) -> None:
        about: dict[str, Any] = {"refused": "", "busy": busy()}
        clock, before = time.perf_counter(), 0.0
        try:
            base = scene.base
            if defence.private:
                base, before = private_base(scene, defence.private, seed)
                clock = time.perf_counter()
            about["notes"] = _make(scene, base, defence, seed, out)
        except UnmergeableError as error:
            about["refused"] = str(error)
        about["seconds"] = before + time.perf_counter() - clock
        store.write_json(out / _ABOUT, about)

    name = f"field/models/{scene.suite.name}-{defence.name}"
    folder = store.get_or_make(name, inputs, make, scene.cache)
    about = json.loads((folder / _ABOUT).read_text("utf-8"))
    model = None if about["refused"] else folder / "model"
    return Defended(
        model,
        folder.name,
        about["seconds"],
        _size(model) if model else 0,
        about.get("notes", {}),
        about["refused"],
        about["busy"],
    )


def private_base(scene: Scene, effort: str, seed: int) -> tuple[Path, float]:
    """A private base of the suite's, made if it is not there; and the seconds that it took.

    It grows on lines of WordNet that are in none of the suite's tasks.

    Raises:
        InputError: a base that reads no text, or that lost its function.
    """
    inputs = {
        "base": weights_hash(scene.base),
        "growth": asdict(EFFORTS[effort]),
        "seed": seed,
        "code": CODE,
    }

    def make(out: Path) -> None:
        items = (i for t in scene.tasks.values() for i in (*t.train, *t.validation, *t.test))
        seen = {item.text for item in items}
        texts = [line for line in lines(scene.cache) if line not in seen]
        relocate(scene.base, out / "model", texts, key(seed), effort=effort)

    name = f"field/models/{scene.suite.name}-private-base"
    made = store.get_or_make(name, inputs, make, scene.cache) / "model"
    record = json.loads((made / RELOCATION).read_text("utf-8"))
    return made, float(record["seconds"])


def _config(scene: Scene, defence: FieldDefence, seed: int) -> TrainConfig:
    """How the row's expert is trained, where it is."""
    steps = scene.suite[scene.owner.name].recipe.steps
    return replace(scene.config(seed), steps=steps * (2 if defence.private else 1))


def _make(scene: Scene, base: Path, defence: FieldDefence, seed: int, out: Path) -> dict[str, Any]:
    """Fills `out/model`; gives back what the defence measured."""
    model = scene.experts[scene.owner.name]
    notes: dict[str, Any] = {}
    if defence.trained:
        items, held = scene.lessons()
        report = train(
            base,
            out / ("trained" if defence.chain else "model"),
            items,
            defence=defence.trained,
            settings={} if defence.chain else defence.settings,
            head=getattr(scene.owner, "head", None),
            config=_config(scene, defence, seed),
            validation=held,
        )
        model, notes = report.out, dict(report.document["measured"])
    if defence.chain:
        done = protect(
            model,
            out / "model",
            key(seed),
            defence=defence.chain,
            settings={**defence.settings, "line": "field"},  # the same lock on every machine
            base=scene.base,
            data=scene.calibration,
        )
        for link in done.manifest.chain:
            notes |= link.measured
    shutil.rmtree(out / "trained", ignore_errors=True)
    return notes


def key(seed: int) -> Key:
    """The benchmark's own key, the same on every machine; no attack is told it."""
    return Key(sha256(f"unmergeable field benchmark {seed}".encode()).digest())


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
