"""A suite of the field benchmark: one real base, and the experts that are protected and merged.

[`suites`][unmergeable.bench.field.suites] is the registry of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from unmergeable.errors import InputError
from unmergeable.evaluation.task import Task
from unmergeable.training import experts
from unmergeable.training.experts import HeadRecipe, Recipe
from unmergeable.training.probe import headed

Cache = str | Path | None


@dataclass(frozen=True)
class TaskRecipe:
    """A task of a suite, and how its expert is trained.

    Attributes:
        name: as people select it; that of the task.
        make: builds the task from packages, given the cache folder. It comes without a head.
        recipe: of its expert; a `HeadRecipe` where the task has a linear head of its own.
        note: what a reader must know before trusting V on it, such as an expert that hardly clears
            the zero line; empty if there is nothing.
        expert: its expert's folder, where that is given; None to train it. Then the recipe is how
            defences that train do it.
    """

    name: str
    make: Callable[[Cache], Task]
    recipe: Recipe
    note: str = ""
    expert: Path | None = None

    def task(self, cache: Cache = None) -> Task:
        """The task as packages give it, without a head."""
        return self.make(cache)

    def trained(self, base: Path, cache: Cache = None, seed: int = 0) -> tuple[Task, Path]:
        """The task as it is scored, with its head where it has one, and its expert's folder.

        Args:
            base: the suite's base.
            cache: the cache folder.
            seed: of the expert's training; added to the recipe's.
        """
        task = self.task(cache)
        if self.expert is not None:
            return task, self.expert
        how = replace(self.recipe, seed=self.recipe.seed + seed)
        folder = experts.expert(base, task, how, cache)
        return (headed(task, folder) if isinstance(how, HeadRecipe) else task), folder


@dataclass(frozen=True)
class Suite:
    """A base with its tasks.

    Attributes:
        name: as `--suite` takes it.
        title: the base, for tables.
        base: builds the base's folder, given the cache folder.
        tasks: all of the suite's.
        pair: the names of the owner's task and of the peer's, for merges of two models. Neither
            expert alone may do the other's task, and their open merge must be worth something.
        crowd: of the tasks of merges of many models, the owner's first; 4 to 8.
        disk: what all of the suite's artefacts take, in GB.
        memory: what its dearest step takes, in GB.
        defences: the names of its rows; empty for the usual ones.
        own: whether somebody brought it. Then a run stops where an expert learned nothing; of ours
            that would be a result.
    """

    name: str
    title: str
    base: Callable[[Cache], Path]
    tasks: tuple[TaskRecipe, ...]
    pair: tuple[str, str]
    crowd: tuple[str, ...]
    disk: float = 4.0
    memory: float = 4.0
    defences: tuple[str, ...] = ()
    own: bool = False

    def __post_init__(self) -> None:
        for name in (*self.pair, *self.crowd):
            self[name]
        if self.crowd[:1] != self.pair[:1]:
            raise InputError(
                f"suite {self.name} has the owner {self.pair[0]} in its pair and "
                f"{self.crowd[:1]} in its crowd: name the same one first in both."
            )

    def __getitem__(self, name: str) -> TaskRecipe:
        """The task of that name.

        Raises:
            InputError: there is none.
        """
        for task in self.tasks:
            if task.name == name:
                return task
        known = ", ".join(task.name for task in self.tasks)
        raise InputError(f"suite {self.name} has no task {name!r}; there is {known}.")

    def chosen(self, names: Sequence[str]) -> list[TaskRecipe]:
        """The tasks of these names, in their order."""
        return [self[name] for name in names]
