"""The worked examples of suite files, as they stand, on tiny models of the same classes."""

import json
import random
import runpy
import shutil
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from tests.evaluation.living import FILLERS, model, save
from unmergeable.bench.field import kept
from unmergeable.bench.field.prepared_suite import open_scene
from unmergeable.bench.field.suite_file import read_suite
from unmergeable.cli import main

EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture(autouse=True)
def as_it_is(monkeypatch):
    monkeypatch.setenv("UNMERGEABLE_PROCESS_SET", "1")  # or the test would be restarted
    torch.set_num_threads(1)


@pytest.fixture
def prepared(monkeypatch, tmp_path):
    """Runs an example's own preparation on stand-ins, beside a copy of its suite file."""

    def prepare(name, load_dataset, **smaller):
        monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
        module = runpy.run_path(str(EXAMPLES / name / "prepare.py"))
        module["prepare"].__globals__.update(smaller)
        module["prepare"](tmp_path)
        return Path(shutil.copy(EXAMPLES / name / "suite.yaml", tmp_path))

    return prepare


def measured(path, capsys):
    """Runs a suite file from the command line; the names of its cells, and the page."""
    pytest.importorskip("mergekit")
    out = path.parent / "out"
    command = ["bench", "field", "--suite", str(path), "--defence", "lock", "--quick", "--json"]
    command += ["--only", "none", "--only", "align", "--only", "task_arithmetic"]
    command += ["--cache", str(path.parent / "cache"), "--out", str(out)]
    capsys.readouterr()  # what the preparation said
    assert main(command) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["measured"] == 7 and not document["refused"]
    (name,) = kept.names(out)
    found = kept.read(kept.path_of(out, name))
    assert not any(cell and cell["reason"] for cell in found.cells.values())
    return found, (out / "results.md").read_text()


def changed(path, *changes):
    """Puts other words into a file, each of which must be there."""
    text = path.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)


def clip(folder):
    """A tiny CLIP, both towers, with its image processor."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    sizes["num_attention_heads"] = 4
    torch.manual_seed(0)
    seeing = {**sizes, "image_size": 32, "patch_size": 8}
    config = CLIPConfig(text_config={**sizes, "vocab_size": 64}, vision_config=seeing)
    CLIPModel(config).save_pretrained(folder)
    side = {"height": 32, "width": 32}
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=side).save_pretrained(folder)
    return folder


class Images:
    """A data set of noise; which of three columns is bright in its task's row is the class."""

    def __init__(self, name, split):
        self.row = zlib.crc32(name.encode()) % 4
        self.draw = np.random.default_rng([self.row, split == "test"])
        self.labels = [number % 3 for number in range(180 if split == "train" else 60)]

    def __getitem__(self, what):
        image = pytest.importorskip("PIL.Image")
        if what == "label":
            return self.labels
        pixels = self.draw.integers(0, 150, (32, 32, 3))
        label = self.labels[what]
        pixels[8 * self.row : 8 * self.row + 8, 10 * label : 10 * label + 10] += 60
        return {"image": image.fromarray(pixels.astype(np.uint8)), "label": label}


def test_clip_on_eight_tasks(prepared, tmp_path, capsys):
    path = prepared(
        "clip_eight_tasks",
        lambda name, *config, split: Images(name, split),
        BASE=str(clip(tmp_path / "clip")),
        TRAIN=120,
        TEST=60,
    )
    changed(path, ("steps: 1000, batch: 64, rate: 1.0e-5", "steps: 40, batch: 16, rate: 2.0e-3"))
    suite = read_suite(path)
    assert len(suite.crowd) == 8 and suite.pair == ("sun397", "cars")
    found, page = measured(path, capsys)
    assert "CLIPVisionModel" in (tmp_path / "base" / "config.json").read_text()
    assert found.name == "clip-eight-tasks-quick" and "| SUN397 (`sun397`) |" in page
    for task in found.index["tasks"].values():
        assert task["items"] == {"train": 120, "validation": 60, "test": 60}


def cycle(words, draw, length=8):
    """Words that follow each other in a fixed order, from a random one on."""
    start = draw.randrange(len(words))
    return " ".join(words[(start + step) % len(words)] for step in range(length))


def texts(name, *config, split):
    """Rows as the example's data sets have them, with an order of the words for each."""
    draw = random.Random(f"{name} {split}")
    order = random.Random(name).sample(FILLERS, len(FILLERS))
    for number in range(140):
        first, second = cycle(order, draw, 3), cycle(order, draw, 5 + number % 7)
        row = {"question": first, "answer": second, "text": first, "code": second}
        yield {**row, "inputs": first, "targets": second, "language_code": "fra"}


def test_an_8b_llama_with_published_experts(prepared, tmp_path, capsys):
    counts = {"train": 80, "validation": 20, "test": 30}
    path = prepared("llama_8b", texts, COUNTS=counts)
    base = save(model(), tmp_path / "base")
    changed(path, ("meta-llama/Llama-3.1-8B", "base"))
    text, tasks = path.read_text(), ("math", "coding", "multilingual")
    # Somebody made the experts.
    for name in tasks:
        recipe = "recipe: {steps: 60, batch: 8, rate: 3.0e-3}"
        changed(path, (f"expert: MergeBench/Llama-3.1-8B_{name}", recipe))
    for task in read_suite(path).tasks:
        _, folder = task.trained(base, tmp_path / "made")
        shutil.copytree(folder, tmp_path / task.name)
    path.write_text(text)
    changed(path, *((f"MergeBench/Llama-3.1-8B_{name}", name) for name in tasks))

    found, page = measured(path, capsys)
    assert found.index["groups"] == {"pair": ["math", "coding"], "crowd": [*tasks]}
    assert "Llama 3.1 8B, MergeBench's experts (a quick run)" in page
    # What is trained again learns from the texts.
    items, held = open_scene(read_suite(path), tmp_path / "cache").lessons()
    assert items.kind == held.kind == "text" and len(items.rows) + len(held.rows) == 80
