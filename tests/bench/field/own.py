"""A suite of one's own: a tiny BERT, two experts in folders, items as files, and a suite file."""

import json
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import yaml

from tests.auditing.scene import stones
from tests.evaluation.living import items
from tests.training.small import base
from unmergeable.evaluation.texts import TextTask
from unmergeable.training.experts import HeadRecipe, expert

RECIPE = HeadRecipe(steps=40, batch=16, rate=3e-3)
SPLITS = ("train", "validation", "test")
TASKS = {
    "living": (items(96, 0), items(40, 2), items(90, 1)),
    "stones": (stones(96, 5), stones(40, 7), stones(90, 6)),
}


def write_items(folder, name, splits, kinds=SPLITS):
    """Writes a task's items, and returns their fields of the suite file."""
    fields = {}
    for split, part in zip(SPLITS, splits, strict=True):
        if split in kinds:
            rows = [json.dumps({"text": item.text, "label": item.label}) for item in part]
            fields[split] = f"{name}-{split}.jsonl"
            (folder / fields[split]).write_text("\n".join(rows))
    return fields


@cache
def given():
    """A folder with the base, two experts with their heads, and the tasks' items."""
    root = Path(mkdtemp(prefix="unmergeable-own-"))
    shutil.copytree(base("bert"), root / "base")
    for name, (train, validation, test) in TASKS.items():
        task = TextTask(name=name, title=name, train=train, validation=validation, test=test)
        made = expert(root / "base", task, RECIPE, root / "cache")
        shutil.copytree(made, root / name)
        shutil.copyfile(made.parent / "head.safetensors", root / f"{name}-head.safetensors")
    return root


def document():
    """What the suite file holds; a test may change it."""
    tasks = []
    for name, splits in TASKS.items():
        of = "peer" if tasks else "protected"
        task = {"name": name, "of": of, "kind": "text", "expert": name, "pooling": "cls"}
        task |= {"head": f"{name}-head.safetensors", **write_items(given(), name, splits)}
        tasks.append(task)
    return {
        "name": "mine",
        "title": "my BERT",
        "base": "base",
        "defences": ["lock"],
        "tasks": tasks,
    }


def write(folder, content):
    """Writes a suite file beside links to what it names, and returns its path."""
    for path in given().iterdir():
        if not (folder / path.name).exists():
            (folder / path.name).symlink_to(path)
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path
