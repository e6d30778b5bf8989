"""How the encoder's tasks and recipes were chosen: on validation items, test items never looked at.

    python benchmarks/field_recipes.py                       # all recipes of all tasks
    python benchmarks/field_recipes.py --recipe gentle
    python benchmarks/field_recipes.py --write               # and put the tables into the docs

For each recipe and task: the base under the head that was trained with the expert (the zero line),
the expert, and what it gains. Then, for each recipe, task arithmetic with one coefficient for all
models, of pairs and of crowds: V on validation items with its best coefficient. Experts are kept in
the cache, where the benchmark finds those that were chosen.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from unmergeable.auditing.evaluator import Evaluator
from unmergeable.auditing.race import Reference
from unmergeable.bench.field.suite import Suite
from unmergeable.bench.field.suites import ENCODER
from unmergeable.evaluation import store
from unmergeable.evaluation.scoring import Score
from unmergeable.evaluation.task import Task
from unmergeable.merging.method import Merged
from unmergeable.models.model_runner import ModelRunner
from unmergeable.models.process import restart_once
from unmergeable.models.weights import Weights
from unmergeable.training.experts import HeadRecipe

DOCS = Path(__file__).parents[1] / "docs" / "experts-search.md"
RECIPES = {"usual": HeadRecipe(), "gentle": HeadRecipe(rate=3e-5)}
# What was tried of each; the owner's task first.
TASKS = {
    "usual": ("uses", "order", "persons", "repeats", "largest", "typos"),
    "gentle": ("persons",),
}
CROWDS = (
    ("uses", "order", "persons"),
    ("uses", "persons", "order", "largest"),
    ("uses", "order", "persons", "repeats"),
    ("uses", "order", "persons", "repeats", "largest"),
    ("uses", "order", "persons", "repeats", "largest", "typos"),
)
COEFFICIENTS = (0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
ABOUT = """\
# How the encoder's experts were chosen

Written by `python benchmarks/field_recipes.py --write`. Every figure is on validation items; no
test item was looked at. "Gain" is the expert's accuracy less the base's under the same head. V is
that of task arithmetic with one coefficient for all models, the best of {coefficients}."""


@dataclass(frozen=True)
class Experts:
    """A suite's experts, and what scores them.

    Attributes:
        base: the base's folder.
        names: of the tasks.
        tasks: with their heads.
        folders: of their experts.
    """

    base: Path
    names: tuple[str, ...]
    tasks: tuple[Task, ...]
    folders: tuple[Path, ...]

    @classmethod
    def of(cls, suite: Suite) -> Experts:
        """Trains what is missing."""
        base = suite.base(None)
        trained = [recipe.trained(base, None, 0) for recipe in suite.tasks]
        tasks, folders = zip(*trained, strict=True)
        return cls(base, tuple(recipe.name for recipe in suite.tasks), tasks, folders)

    @cached_property
    def _origin(self) -> Weights:
        return Weights.read(self.base)

    @cached_property
    def _runner(self) -> ModelRunner:
        return ModelRunner.of(self.base)

    @cached_property
    def _files(self) -> list[str]:
        return [store.file_hash(f / "model.safetensors") for f in (self.base, *self.folders)]

    def scores(self, chosen: Sequence[int], weights: Mapping[int, float]) -> list[Score]:
        """Of the base plus so much of some experts' task vectors, on some tasks."""
        about = {
            "base": self._files[0],
            "experts": [self._files[1 + i] for i in weights],
            "weights": list(weights.values()),
        }
        tasks = [self.tasks[i] for i in chosen]
        owners, resting = range(len(tasks)), self._origin.tensors
        scorer = Evaluator(self._runner, self.base, tasks, owners, store.root(), resting)
        return scorer.scores(about, lambda: Merged(self._sum(weights)))

    def _sum(self, weights: Mapping[int, float]) -> dict[str, Any]:
        out = dict(self._origin.tensors)
        for i, weight in weights.items():
            for name, tensor in Weights.read(self.folders[i]).tensors.items():
                if tensor.is_floating_point():
                    out[name] = out[name] + weight * (tensor - self._origin.tensors[name])
        return out


def suite_of(recipe: str) -> Suite:
    """The encoder suite with one recipe for all of its tasks."""
    names = TASKS[recipe]
    tasks = [replace(ENCODER[name], recipe=RECIPES[recipe]) for name in names]
    return replace(ENCODER, tasks=tuple(tasks), pair=(names[0], names[-1]), crowd=names)


def learned(experts: Experts, recipe: str) -> Iterator[str]:
    """What each expert has learned."""
    yield "| recipe | task | base | expert | gain, points |"
    yield "| --- | --- | --- | --- | --- |"
    for place, name in enumerate(experts.names):
        (low,) = experts.scores([place], {})
        (high,) = experts.scores([place], {place: 1.0})
        gain = 100 * (high.accuracy - low.accuracy)
        yield f"| {recipe} | {name} | {shown(low)} | {shown(high)} | {gain:+.1f} |"


def merged(experts: Experts, recipe: str) -> Iterator[str]:
    """What open merges of the owner's expert with one other, and with many, are worth."""
    yield "| recipe | merge of | coefficient | V |"
    yield "| --- | --- | --- | --- |"
    owner, *others = experts.names
    for names in (*((owner, other) for other in others), *CROWDS):
        if not set(names) <= set(experts.names):
            continue
        chosen = [experts.names.index(name) for name in names]
        reference = Reference(
            experts.scores(chosen, {}),
            [experts.scores([place], {place: 1.0})[0] for place in chosen],
        )
        worth = {
            c: reference.worst_share(experts.scores(chosen, dict.fromkeys(chosen, c)))
            for c in COEFFICIENTS
        }
        best = max(worth, key=lambda c: worth[c])
        yield f"| {recipe} | {' + '.join(names)} | {best:g} | {max(0.0, worth[best]):.2f} |"


def shown(score: Score) -> str:
    """An accuracy with its interval."""
    low, high = score.interval
    return f"{score.accuracy:.1%} ({100 * low:.0f}-{100 * high:.0f})"


def main() -> None:
    """Prints two tables a recipe."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--write", action="store_true", help=f"write {DOCS.name}")
    options = parser.parse_args()
    restart_once(training=True)
    told = [ABOUT.format(coefficients=", ".join(f"{c:g}" for c in COEFFICIENTS))]
    for recipe in options.recipe:
        how = RECIPES[recipe]
        told.append(f"\n## {recipe}: {how.steps} steps of {how.batch}, rate {how.rate:g}")
        experts = Experts.of(suite_of(recipe))
        told += ["", *learned(experts, recipe)]
        if len(experts.names) > 1:
            told += ["", *merged(experts, recipe)]
        print("\n".join(told), flush=True)
    if options.write:
        DOCS.write_text("\n".join(told) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
