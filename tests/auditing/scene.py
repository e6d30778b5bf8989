"""Two experts of one tiny base that merge well, a locked one, and a task file for an audit."""

import itertools
import json
import random
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import torch
import yaml

from tests.evaluation.living import FILLERS, TASK, items, model, save, tokenizer
from unmergeable.auditing.audit import audit
from unmergeable.evaluation.label_words import WordTask
from unmergeable.evaluation.task import Item
from unmergeable.keys.key import Key
from unmergeable.models.model_runner import ModelRunner
from unmergeable.protection.protect import protect
from unmergeable.training.experts import Recipe, expert

KEY = Key(bytes(range(32)))
RECIPE = Recipe(steps=40, batch=16, rate=1.5e-3)


def stones(count, seed):
    """Texts that hold one of six fillers, three of each class."""
    draw = random.Random(seed)
    out = []
    for _ in range(count):
        kind = draw.randrange(6)
        text = draw.choices(FILLERS[6:16], k=draw.randrange(8))
        text.insert(draw.randrange(len(text) + 1), FILLERS[kind])
        out.append(Item(" ".join(text), kind // 3))
    return tuple(out)


THEIRS = WordTask(
    name="stones",
    title="stones",
    template="{text} w19 :",
    words=("w17", "w18"),
    train=stones(96, 5),
    test=stones(90, 6),
)


def _base(folder):
    """A model that has seen a little of both tasks, so that fine-tuning need not rebuild it."""
    runner = ModelRunner(model(), tokenizer())
    batches = []
    for task, part in ((TASK, items(400, 11)), (THEIRS, stones(400, 12))):
        found = task.batches(
            runner,
            [item.text for item in part],
            [item.label for item in part],
            lambda lengths: [list(range(i, i + 16)) for i in range(0, len(lengths), 16)],
        )
        batches += [(task, batch) for batch in found]
    random.Random(0).shuffle(batches)
    optimiser = torch.optim.AdamW(runner.model.parameters(), lr=3e-3)
    for task, batch in itertools.islice(batches, 16):
        task.losses(task.logits(runner.model, batch), batch).mean().backward()
        optimiser.step()
        optimiser.zero_grad()
    return save(runner.model, folder)


@cache
def scene():
    """Folders by name; made once per process, for the training takes seconds."""
    root = Path(mkdtemp(prefix="unmergeable-scene-"))
    folders = {"base": _base(root / "base")}
    folders["original"] = expert(folders["base"], TASK, RECIPE, root)
    folders["peer"] = expert(folders["base"], THEIRS, RECIPE, root)
    folders["protected"] = root / "protected"
    protect(folders["original"], folders["protected"], KEY)
    return folders


def audited(folder, preset, *, texts=False, train=False, **more):
    """An audit of the scene with its cache in a folder, as a document.

    Folders of other models, and whatever else `audit` takes, may be given by name.
    """
    places = {name: more.pop(name, place) for name, place in scene().items()}
    given = {"key": KEY, "cache": folder / "cache", **more}
    if "tasks" not in given:
        given["tasks"] = task_file(folder, texts, train)
    protected, peer = places.pop("protected"), places.pop("peer")
    return audit(protected, **places, peers=[peer], preset=preset, **given).to_dict()


def task_file(folder, texts=False, train=False):
    """Writes the task file into a folder and returns its path."""
    entries = []
    parts = ((TASK, "protected", items(40, 2)), (THEIRS, "peer", stones(40, 7)))
    for task, of, validation in parts:
        entry = {"name": task.name, "title": task.title, "of": of, "kind": "words"}
        entry |= {"template": task.template, "words": list(task.words)}
        splits = {"validation": validation, "test": task.test}
        if train and of == "peer":
            splits["train"] = task.train
        for split, part in splits.items():
            name = f"{task.name}-{split}.jsonl"
            rows = [json.dumps({"text": item.text, "label": item.label}) for item in part]
            (folder / name).write_text("\n".join(rows))
            entry[split] = name
        entries.append(entry)
    document = {"tasks": entries}
    if texts:
        (folder / "generic.txt").write_text("\n".join(" ".join(FILLERS[i:]) for i in range(18)))
        (folder / "domain.txt").write_text("\n".join(item.text for item in items(60, 3)))
        document["texts"] = {"generic": "generic.txt", "in-domain": "domain.txt"}
    path = folder / "tasks.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path
