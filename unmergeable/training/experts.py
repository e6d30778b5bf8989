"""Fine-tune a base model on a task: the experts that the demonstration protects and merges.

Full fine-tuning with float32 master weights under bfloat16 autocast. The loss is cross-entropy over
the task's label words at the last position, which is also what the task scores.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmergeable.errors import InputError
from unmergeable.running.host import Host
from unmergeable.running.weights import Weights
from unmergeable.tasks.task import Task
from unmergeable.training.loop import train
from unmergeable.zoo import cache as store

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


def expert(
    base: str | Path,
    task: Task,
    recipe: Recipe,
    cache: str | Path | None = None,
    console: Any = None,
) -> Path:
    """Return a fine-tune of a base on a task as a Hugging Face folder, training it on first use.

    Args:
        base: The base model's folder.
        task: What to train on; its train split only.
        recipe: How.
        cache: The cache folder.
        console: A rich console for the progress bar; None shows none.

    Returns:
        A folder with the base's configuration and tokenizer and float32 weights.
    """
    base = Path(base)
    inputs = {
        "base": store.file_hash(base / "model.safetensors"),
        "task": task.content_hash,
        "recipe": asdict(recipe),
        "code": 2,
    }
    return store.build(
        f"models/expert-{task.name}",
        inputs,
        lambda out: fine_tune(base, task, recipe, out, console),
        cache,
    )


def fine_tune(base: Path, task: Task, recipe: Recipe, out: Path, console: Any = None) -> None:
    """Train on the task's train split and write the model folder `out`."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    host = Host.of(base)
    model: Any = host.model.train()
    texts, labels = zip(*task.train, strict=True)
    batches = task.batches(host, texts, labels, lambda lengths: schedule(lengths, recipe))
    bar = Progress(
        TextColumn(f"training on {task.title}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeElapsedColumn(),
        console=console or Console(quiet=True),
    )
    with bar:
        row = bar.add_task("", total=recipe.steps, loss=math.nan)

        def losses(step: int) -> Iterator[torch.Tensor]:
            batch = batches[step]
            loss = task.losses(task.logits(model, batch), batch).mean()
            bar.update(row, advance=1, loss=float(loss.detach()))
            yield loss

        state = Weights.read(base).tensors
        runs = train(host, state, losses, recipe.rate_at, [recipe.steps], decay=recipe.decay)
        if not list(runs):
            raise InputError(f"training on {task.title} diverged: lower the rate of {recipe}.")
    # Not safetensors' save_model: of two tied tensors it keeps lm_head, not the embedding.
    model.save_pretrained(out)
    for file in base.iterdir():
        if file.suffix != ".safetensors":
            shutil.copyfile(file, out / file.name)


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
