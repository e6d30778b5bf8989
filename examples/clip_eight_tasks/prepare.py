"""Writes what `suite.yaml` beside this file names: CLIP's vision tower, and eight tasks' images.

    pip install datasets pillow
    python examples/clip_eight_tasks/prepare.py

Takes the model and the data from the Hub, many gigabytes. Of each data set some items of every
class are kept, for all test images are in memory together while models are scored.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import load_dataset
from transformers import AutoImageProcessor, CLIPVisionModel

BASE = "openai/clip-vit-base-patch32"
# By the names of the suite's tasks: the data set, and which part of it where there are several.
TASKS: dict[str, tuple[str, ...]] = {
    "sun397": ("tanganke/sun397",),
    "cars": ("tanganke/stanford_cars",),
    "resisc45": ("tanganke/resisc45",),
    "eurosat": ("tanganke/eurosat",),
    "svhn": ("ufldl-stanford/svhn", "cropped_digits"),
    "gtsrb": ("tanganke/gtsrb",),
    "mnist": ("ylecun/mnist",),
    "dtd": ("tanganke/dtd",),
}
TRAIN, TEST = 4000, 1000  # items of a task, and as many for validation as for testing
LEAST = {"train": 16, "validation": 3, "test": 3}  # of a class, where there are many classes


def balanced(labels: Sequence[int], counts: Mapping[str, int]) -> dict[str, list[int]]:
    """For each part, which items are in it: as many of each class, drawn at random, of no other."""
    by_class: dict[int, list[int]] = {}
    for place in random.Random(0).sample(range(len(labels)), len(labels)):
        by_class.setdefault(labels[place], []).append(place)
    found: dict[str, list[int]] = {}
    for part, count in counts.items():
        each = max(LEAST[part], count // len(by_class))
        found[part] = [place for places in by_class.values() for place in places[:each]]
        for places in by_class.values():
            del places[:each]
    return found


def write(rows: Iterator[Mapping[str, Any]], folder: Path, part: str) -> None:
    """Writes images and, as JSONL, their labels."""
    (folder / part).mkdir(parents=True, exist_ok=True)
    lines = []
    for number, row in enumerate(rows):
        name = f"{part}/{number:05}.png"
        row["image"].convert("RGB").save(folder / name)
        lines.append(json.dumps({"image": name, "label": row["label"]}))
    (folder / f"{part}.jsonl").write_text("\n".join(lines) + "\n")


def prepare(out: Path) -> None:
    """Fills a folder; what it holds already stays."""
    if not (out / "base").exists():
        CLIPVisionModel.from_pretrained(BASE).save_pretrained(out / "base")
        AutoImageProcessor.from_pretrained(BASE).save_pretrained(out / "base")
    for name, source in TASKS.items():
        folder = out / "data" / name
        if (folder / "test.jsonl").exists():
            continue
        for split, counts in (
            ("train", {"train": TRAIN, "validation": TEST}),
            ("test", {"test": TEST}),
        ):
            data = load_dataset(*source, split=split)
            for part, places in balanced(data["label"], counts).items():
                write((data[place] for place in places), folder, part)
        print(f"{name}: {folder}")


if __name__ == "__main__":
    prepare(Path(__file__).parent)
