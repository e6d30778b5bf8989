"""A suite made ready: its base, its tasks as they are scored, and their experts, built and hashed.

Everything comes from the cache by content, so that a scene is cheap to open again; the first time,
packages are fetched and experts trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from unmergeable.bench.field.suite import Cache, Suite
from unmergeable.errors import InputError
from unmergeable.evaluation import store
from unmergeable.evaluation.images import ImageTask
from unmergeable.evaluation.label_words import WordTask
from unmergeable.evaluation.prose import ProseTask
from unmergeable.evaluation.task import Task
from unmergeable.training.config import TrainConfig
from unmergeable.training.data import Items

VALIDATION = 64  # items of each task on which coefficients are chosen
TEXTS = 500  # unlabelled items of the owner's task that attacks with data may use
CALIBRATION = 128  # and that defences which look at activations are given
HELD = 64  # training items that a training-time defence validates on
LEAST = 8  # training items that it needs


@dataclass(frozen=True, eq=False)
class Scene:
    """A suite with everything built.

    Attributes:
        suite: which.
        base: the base's folder.
        tasks: by name, with their heads, whole.
        experts: by the same names, their folders.
        cache: the cache folder.
    """

    suite: Suite
    base: Path
    tasks: dict[str, Task]
    experts: dict[str, Path]
    cache: Path

    def scored(self, names: Sequence[str]) -> list[Task]:
        """The tasks as an audit scores them: few validation items, all test items."""
        return [
            replace(self.tasks[name], validation=self.tasks[name].validation[:VALIDATION])
            for name in names
        ]

    @cached_property
    def owner(self) -> Task:
        """The owner's task."""
        return self.tasks[self.suite.pair[0]]

    @property
    def texts(self) -> tuple[str, ...]:
        """Unlabelled items of the owner's kind, as a thief may collect them."""
        return tuple(item.text for item in self.owner.train[:TEXTS])

    @property
    def calibration(self) -> list[str]:
        """What the owner gives a defence that looks at activations: texts, or paths of images."""
        owner, items = self.owner, self.owner.train[:CALIBRATION]
        if isinstance(owner, WordTask):
            return [owner.prompt(item.text) for item in items]
        return [item.text for item in items]

    def lessons(self) -> tuple[Items, Items]:
        """The owner's training items, for training again under a defence, and those held out.

        Raises:
            InputError: there are too few to hold any out.
        """
        owner = self.owner
        if len(owner.train) < LEAST:
            raise InputError(
                f"task {owner.name} has {len(owner.train)} train items, and what trains needs "
                f"{LEAST} or more."
            )
        if isinstance(owner, WordTask):
            items = Items.of_words(owner, owner.train)
        elif isinstance(owner, ProseTask):
            items = Items("text", tuple((item.text, None) for item in owner.train))
        else:
            kind: Any = "image" if isinstance(owner, ImageTask) else "label"
            items = Items(kind, tuple((item.text, item.label) for item in owner.train))
        held = min(HELD, len(items.rows) // 4)
        return replace(items, rows=items.rows[:-held]), replace(items, rows=items.rows[-held:])

    def config(self, seed: int) -> TrainConfig:
        """How the owner's expert was trained, for the Trainer."""
        how, owner = self.suite[self.owner.name].recipe, self.owner
        return TrainConfig(
            steps=how.steps,
            batch=how.batch,
            rate=how.rate,
            seed=seed,
            end=False,
            tokens=getattr(owner, "tokens", TrainConfig.tokens),
            size=getattr(owner, "size", None),
            every=how.steps,  # no checkpoints on the way
        )


def open_scene(suite: Suite, cache: Cache = None) -> Scene:
    """Builds what is missing and opens the rest; once per process.

    Raises:
        DownloadError: a package that is missing or not the known one.
        UnmergeableError: an expert that could not be trained.
    """
    return _opened(suite, store.root(cache))


@lru_cache(maxsize=2)
def _opened(suite: Suite, cache: Path) -> Scene:
    base = suite.base(cache)
    names = dict.fromkeys((*suite.pair, *suite.crowd))
    found = {name: suite[name].trained(base, cache) for name in names}
    tasks = {name: task for name, (task, _) in found.items()}
    experts = {name: folder for name, (_, folder) in found.items()}
    return Scene(suite, base, tasks, experts, cache)


@lru_cache(maxsize=256)
def weights_hash(folder: Path) -> str:
    """What a model folder is known by: the hash of its weight files, in their order."""
    files = sorted(folder.glob("*.safetensors"))
    return store.digest({file.name: store.file_hash(file) for file in files})


def artefact_of(folder: Path) -> str:
    """The name of the artefact that a model folder is, or lies in."""
    return folder.parent.name if folder.name == "model" else folder.name
