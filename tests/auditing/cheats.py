"""What tests of tricks share: a small ensemble, items that carry a verdict, changed releases."""

import json
import shutil
from dataclasses import replace

from safetensors.torch import load_file, save_file

from tests.auditing.scene import scene, stones, task_file
from tests.evaluation.living import items
from unmergeable.auditing import ensemble
from unmergeable.auditing.audit import audit
from unmergeable.auditing.report import check

TINY = replace(
    ensemble.DEMO, methods=("task_arithmetic",), attacks=(), aligns=(), line=0, settings=1
)
WEIGHTS = "model.safetensors"
UNUSED = 27  # the row of w16, which no item of `plenty` has


def plenty(folder, count=300):
    """A task file whose test items are many and different, so that they keep no verdict back."""
    path = task_file(folder)
    for name, made in (("living", items(900, 21)), ("stones", stones(900, 22))):
        old = {json.loads(line)["text"] for line in (folder / f"{name}-validation.jsonl").open()}
        rows = {item.text: item.label for item in made if "w16" not in item.text.split()}
        rows = [(text, label) for text, label in rows.items() if text not in old][:count]
        lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
        (folder / f"{name}-test.jsonl").write_text("\n".join(lines))
    return path


def run(cache, folder, **changes):
    """An audit of the scene, with some of it exchanged; never "holds", unless that is asked for."""
    folders = {**scene(), **changes}
    document = audit(
        folders["protected"],
        base=folders["base"],
        original=folders["original"],
        peers=folders.get("peers") or [folders["peer"]],
        tasks=folders.get("tasks") or plenty(folder),
        preset=folders.get("preset", "tiny"),
        key=folders.get("key"),
        cache=cache,
    ).to_dict()
    check(document)
    assert folders.get("may_hold") or document["verdict"]["answer"] != "holds"
    return document


def release(folder, change, source="original", name="release", **config):
    """A release of changed tensors, and what its config.json says otherwise."""
    made = folder / name
    shutil.copytree(scene()[source], made)
    tensors = {name: t.clone() for name, t in load_file(made / WEIGHTS).items()}
    save_file(change(tensors) or tensors, made / WEIGHTS, {"format": "pt"})
    if config:
        known = json.loads((made / "config.json").read_text())
        (made / "config.json").write_text(json.dumps({**known, **config}))
    return made
