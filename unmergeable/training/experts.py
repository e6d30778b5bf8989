"""Fine-tune a base model on a task: the experts that the demonstration protects and merges.

Full fine-tuning, embeddings included, with float32 master weights, in the precision of scoring. The
loss is the task's own: cross-entropy over its label words at the last position, or over the classes
of its linear head. A head is trained with the trunk and kept apart from it: see
[`probe`][unmergeable.training.probe].
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmergeable.checkpoint.companions import RELOCATION
from unmergeable.checkpoint.folder import INDEX, SINGLE, open_folder
from unmergeable.errors import InputError
from unmergeable.evaluation import store
from unmergeable.evaluation.heads import Pooling
from unmergeable.evaluation.task import Batch, Task
from unmergeable.models.model_runner import ModelRunner
from unmergeable.models.weights import Weights
from unmergeable.progress import Progress, Status, silent
from unmergeable.training.loop import train
from unmergeable.training.probe import learning, probe, write_head

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Recipe:
    """How an expert is made; part of the key under which it is cached.

    Attributes:
        steps: Optimiser steps.
        batch: Prompts per step.
        rate: Peak learning rate of AdamW; linear warm-up over a tenth of the steps, cosine decay.
        decay: AdamW's weight decay.
        seed: Order of the items.
    """

    steps: int = 75
    batch: int = 16
    rate: float = 2e-5
    decay: float = 0.0
    seed: int = 0

    def rate_at(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        warm = max(1, self.steps // 10)
        if step < warm:
            return self.rate * (step + 1) / warm
        return self.rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / (self.steps - warm)))


@dataclass(frozen=True)
class HeadRecipe(Recipe):
    """How an expert with a linear head of its task is made.

    Attributes:
        pooling: What the head reads; see [`Head`][unmergeable.evaluation.heads.Head].
        penalty: Of the probe that the head starts from; see
            [`probe`][unmergeable.training.probe.probe].
    """

    steps: int = 150
    batch: int = 32
    rate: float = 1e-4
    pooling: Pooling = "cls"
    penalty: float = 1e-2


def expert(
    base: str | Path,
    task: Task,
    recipe: Recipe,
    cache: str | Path | None = None,
    progress: Progress = silent,
) -> Path:
    """Return a fine-tune of a base on a task as a Hugging Face folder, training it on first use.

    Args:
        base: The base model's folder.
        task: What to train on; its train split only.
        recipe: How; a `HeadRecipe` for a task that needs a head and has none.
        cache: The cache folder.
        progress: Is told how far it is.

    Returns:
        A folder with the base's configuration and tokenizer, and the base's tensors in float32. The
        head of a `HeadRecipe` lies beside it: [`headed`][unmergeable.training.probe.headed] gives
        the task with it.
    """
    base = Path(base)
    with_head = isinstance(recipe, HeadRecipe)
    hashes = {
        file.path.name: store.file_hash(base / file.path.name) for file in open_folder(base).files
    }
    inputs = {
        "base": hashes.get(SINGLE) or store.digest(hashes),
        "task": task.content_hash,
        "recipe": asdict(recipe),
        "code": 2,
    }

    def make(out: Path) -> None:
        folder = out / "model" if with_head else out
        folder.mkdir(exist_ok=True)
        fine_tune(base, task, recipe, folder, progress)

    found = store.get_or_make(f"models/expert-{task.name}", inputs, make, cache)
    return found / "model" if with_head else found


def fine_tune(
    base: Path, task: Task, recipe: Recipe, out: Path, progress: Progress = silent
) -> None:
    """Train on the task's train split; write the model folder `out`, and beside it the head."""
    import torch
    from safetensors.torch import save_file

    runner = ModelRunner.of(base)
    state = dict(Weights.read(base).tensors)
    head: Mapping[str, torch.Tensor] = {}
    if isinstance(recipe, HeadRecipe):
        head = probe(runner, task, recipe.pooling, recipe.penalty)
        task = learning(runner, task, head, recipe.pooling)
    torch.manual_seed(recipe.seed)  # of dropout, where the architecture has it
    model: Any = runner.model.train()
    texts, labels = zip(*task.train, strict=True)
    plan: list[list[int]] = []

    def planned(lengths: Sequence[int]) -> list[list[int]]:
        plan.extend(schedule(lengths, recipe))
        return []

    task.batches(runner, texts, labels, planned)

    def due(step: int) -> Batch:
        """A step's items, encoded when it is their turn: a run's images would fill the memory."""
        chosen = [task.train[row] for row in plan[step]]
        (batch,) = task.batches(
            runner,
            [item.text for item in chosen],
            [item.label for item in chosen],
            lambda lengths: [list(range(len(lengths)))],
        )
        return batch

    start = time.perf_counter()

    def losses(step: int) -> Iterator[torch.Tensor]:
        left = (time.perf_counter() - start) / step * (recipe.steps - step) if step else None
        progress(Status(f"training on {task.title}", step, recipe.steps, "steps", left))
        batch = due(step)
        yield task.losses(task.logits(model, batch), batch).mean()

    stops = [recipe.steps]
    runs = train(runner, {**state, **head}, losses, recipe.rate_at, stops, decay=recipe.decay)
    found = next(runs, None)
    if found is None:
        raise InputError(f"training on {task.title} diverged: lower the rate of {recipe}.")
    trained = found[1]
    # Not the model's own save_pretrained, which leaves out what the base's file has and this
    # transformers does not need (position_ids): no merge tool would take the two together.
    save_file({name: trained[name].contiguous() for name in state}, out / SINGLE, {"format": "pt"})
    if isinstance(recipe, HeadRecipe):
        write_head({name: trained[name] for name in head}, recipe.pooling, out.parent)
    for name in open_folder(base).companions:
        if name not in (RELOCATION, INDEX):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(base / name, out / name)


def schedule(lengths: Sequence[int], recipe: Recipe) -> list[list[int]]:
    """Indices of the items of each step: every epoch shuffled, and batches of similar length.

    Chunks of eight batches are sorted by length and cut, and the batches of the whole run are
    shuffled, so a batch pads little and the order does not follow length.
    """
    import random

    draw = random.Random(recipe.seed)
    chunk = 8 * recipe.batch
    batches: list[list[int]] = []
    while len(batches) < recipe.steps:
        order = list(range(len(lengths)))
        draw.shuffle(order)
        epoch: list[list[int]] = []
        for start in range(0, len(order), chunk):
            part = sorted(order[start : start + chunk], key=lambda i: lengths[i])
            epoch += [part[i : i + recipe.batch] for i in range(0, len(part), recipe.batch)]
        draw.shuffle(epoch)
        batches += epoch
    return batches[: recipe.steps]
