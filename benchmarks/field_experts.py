"""The experts of the field benchmark: what each has learned, and what their open merges are worth.

    python benchmarks/field_experts.py                            # all suites
    python benchmarks/field_experts.py --suite encoder --pairs    # and every pair of experts
    python benchmarks/field_experts.py --write                    # and put the tables into the docs

For each task, on its test items: the base under the head that was trained with the expert (the zero
line), the expert, their difference, and the best other expert alone, which must not do the task.
Then task arithmetic of the suite's pair and of its crowd, whose coefficients are chosen on
validation items, and V with the worst expert alone: what a merge must beat to say anything. Experts
that are missing are trained first; scores are kept in the cache.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from unmergeable.auditing.controls import ALONE
from unmergeable.auditing.evaluator import Evaluator
from unmergeable.auditing.search import Reference
from unmergeable.bench.field.suite import Suite
from unmergeable.bench.field.suites import SUITES
from unmergeable.errors import UnmergeableError
from unmergeable.evaluation import store
from unmergeable.evaluation.scoring import Score
from unmergeable.evaluation.task import Task
from unmergeable.evaluation.value import Value, merge_value
from unmergeable.merging.method import Merged
from unmergeable.models.model_runner import ModelRunner
from unmergeable.models.process import restart_once
from unmergeable.models.weights import Weights

DOCS = Path(__file__).parents[1] / "docs" / "experts.md"
MARGIN = 0.15  # of accuracy: an expert that gains less is marked
COMMAND = " ".join(["python benchmarks/field_experts.py", *sys.argv[1:]])
ABOUT = """\
For each task, on its test items, with 95 % intervals: the base under the head that was trained
with the expert (the zero of V), the expert, what it gains ("small" below 15 points: V is then
uncertain), and the best other expert alone under the task's head. Below, task arithmetic of the
suite's pair and crowd, with coefficients chosen on validation items, and the most that one of
those experts alone is worth as their merge, which must stay below the audit's bound."""
VALIDATION = 128  # items a task that coefficients are chosen on
PAIR = (
    (1.0, 1.0),
    (0.5, 0.5),
    (0.7, 0.7),
    (1.3, 1.3),
    (1.0, 0.5),
    (0.5, 1.0),
    (0.7, 1.3),
    (1.3, 0.7),
)
CROWD = (0.15, 0.3, 0.4, 0.5, 0.7, 1.0)


@dataclass(frozen=True)
class Bench:
    """A suite with its experts, and what scores them.

    Attributes:
        suite: whose.
        base: the base's folder.
        names: of the tasks.
        tasks: with their heads.
        folders: of their experts.
        chosen_on: validation items a task that are looked at; -1 for all.
    """

    suite: Suite
    base: Path
    names: tuple[str, ...]
    tasks: tuple[Task, ...]
    folders: tuple[Path, ...]
    chosen_on: int = VALIDATION

    @classmethod
    def of(cls, suite: Suite, only: Sequence[str], seed: int) -> Bench:
        """Trains what is missing."""
        base = suite.base(None)
        names, tasks, folders = [], [], []
        for recipe in suite.tasks:
            if only and recipe.name not in only:
                continue
            print(f"{suite.name}: {recipe.name} ...", flush=True)
            try:
                task, folder = recipe.trained(base, None, seed)
            except UnmergeableError as error:
                print(f"  left out: {error}", flush=True)
                continue
            names.append(recipe.name)
            tasks.append(task)
            folders.append(folder)
        return cls(suite, base, tuple(names), tuple(tasks), tuple(folders))

    @cached_property
    def _origin(self) -> Weights:
        return Weights.read(self.base)

    @cached_property
    def _runner(self) -> ModelRunner:
        return ModelRunner.of(self.base)

    @cached_property
    def _files(self) -> list[str]:
        return [store.file_hash(f / "model.safetensors") for f in (self.base, *self.folders)]

    def scores(
        self, chosen: Sequence[int], weights: Mapping[int, float], split: Any
    ) -> list[Score]:
        """Of the base plus so much of some experts' task vectors, on some tasks."""
        used = {i: weight for i, weight in weights.items() if weight}
        about = {
            "base": self._files[0],
            "experts": [self._files[1 + i] for i in used],
            "weights": list(used.values()),
        }
        tasks = [self.tasks[i] for i in chosen]
        owners, resting = range(len(tasks)), self._origin.tensors
        scorer = Evaluator(self._runner, self.base, tasks, owners, store.root(), resting)
        stop = self.chosen_on if split == "validation" else -1
        return scorer.scores(about, lambda: Merged(self._sum(used)), split, 0, stop)

    def _sum(self, weights: Mapping[int, float]) -> dict[str, Any]:
        out = dict(self._origin.tensors)
        for i, weight in weights.items():
            for name, tensor in Weights.read(self.folders[i]).tensors.items():
                if tensor.is_floating_point():
                    out[name] = out[name] + weight * (tensor - self._origin.tensors[name])
        return out

    def table(self) -> list[list[Score]]:
        """Test scores on every task: first the base's, then each expert's."""
        every = range(len(self.tasks))
        return [self.scores(every, {i: 1.0} if i >= 0 else {}, "test") for i in (-1, *every)]

    def best(
        self, chosen: Sequence[int], tried: Sequence[Sequence[float]]
    ) -> tuple[Value | None, Sequence[float]]:
        """Task arithmetic of some experts: V on test items, and coefficients from validation."""
        bounds = {
            split: (
                self.scores(chosen, {}, split),
                [self.scores([i], {i: 1.0}, split)[0] for i in chosen],
            )
            for split in ("validation", "test")
        }
        reference = Reference(*bounds["validation"])

        def worst(weights: Sequence[float]) -> float:
            given = dict(zip(chosen, weights, strict=True))
            return reference.worst_share(self.scores(chosen, given, "validation"))

        picked = max(tried, key=worst)
        got = self.scores(chosen, dict(zip(chosen, picked, strict=True)), "test")
        return merge_value(got, *bounds["test"]), picked


def alone(table: list[list[Score]], chosen: Sequence[int]) -> float:
    """The most that one of some experts is worth as their merge."""
    base, own = [table[0][i] for i in chosen], [table[1 + i][i] for i in chosen]
    values = [merge_value([table[1 + i][j] for j in chosen], base, own) for i in chosen]
    return max((value.value for value in values if value), default=0.0)


def main() -> None:
    """Prints one table a suite."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", nargs="+", default=list(SUITES), choices=list(SUITES))
    parser.add_argument("--only", nargs="+", default=[], help="these tasks alone")
    parser.add_argument("--seed", type=int, default=0, help="of the experts' training")
    parser.add_argument("--pairs", action="store_true", help="merge every pair of experts")
    parser.add_argument("--write", action="store_true", help=f"write {DOCS.name}")
    options = parser.parse_args()
    restart_once(training=True)
    told = [f"# The experts of the field benchmark\n\nWritten by `{COMMAND}`.\n\n{ABOUT}"]

    def tell(line: str) -> None:
        told.append(line)
        print(line, flush=True)

    for name in options.suite:
        suite = SUITES[name]
        bench = Bench.of(suite, options.only, options.seed)
        tell(f"\n## {suite.title}: seed {options.seed}\n")
        scores = bench.table()
        for line in itertools.chain(learned(bench, scores), merges(bench, scores, options.pairs)):
            tell(line)
        tell("")
        for recipe in suite.tasks:
            if recipe.name in bench.names and recipe.note:
                tell(f"- {recipe.name}: {recipe.note}")
    if options.write:
        DOCS.write_text("\n".join(told) + "\n", encoding="utf-8")


def learned(bench: Bench, scores: list[list[Score]]) -> Iterator[str]:
    """What each expert has learned."""
    yield "| task | classes | train | test | base | expert | gain | best other expert alone |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    base, *experts = scores
    for i, task in enumerate(bench.tasks):
        gain = experts[i][i].accuracy - base[i].accuracy
        others = {n: experts[j][i] for j, n in enumerate(bench.names) if j != i}
        best = max(others, key=lambda name: others[name].accuracy, default="")
        yield (
            f"| {bench.names[i]} | {len({item.label for item in task.test})} | {len(task.train)} | "
            f"{len(task.test)} | {shown(base[i])} | {shown(experts[i][i])} | "
            f"{100 * gain:+.1f}{'' if gain >= MARGIN else ' (small)'} | "
            f"{f'{shown(others[best])}, {best}' if best else '-'} |"
        )


def merges(bench: Bench, scores: list[list[Score]], pairs: bool) -> Iterator[str]:
    """What open merges are worth."""
    yield ""
    yield "| task arithmetic of | coefficients | V | best expert alone |"
    yield "| --- | --- | --- | --- |"
    place = {name: i for i, name in enumerate(bench.names)}
    pair, crowd = bench.suite.pair, bench.suite.crowd
    sets = [pair, crowd] + (list(itertools.combinations(bench.names, 2)) if pairs else [])
    for names in dict.fromkeys(sets):
        if not place.keys() >= set(names):
            continue
        chosen = [place[name] for name in names]
        tried = PAIR if len(names) == 2 else [(weight,) * len(names) for weight in CROWD]
        value, weights = bench.best(chosen, tried)
        single = alone(scores, chosen)
        worth = "an expert learned nothing"
        if value is not None:
            worth = f"{value.value:.2f} ({value.estimate.low:.2f}-{value.estimate.high:.2f})"
        yield (
            f"| {' + '.join(names)} | {', '.join(f'{w:g}' for w in weights)} | {worth} | "
            f"{single:.2f}{'' if single < ALONE else ' (tasks do not differ)'} |"
        )


def shown(score: Score) -> str:
    """An accuracy with its interval."""
    low, high = score.interval
    return f"{score.accuracy:.1%} ({100 * low:.0f}-{100 * high:.0f})"


if __name__ == "__main__":
    main()
