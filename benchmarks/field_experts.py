"""The experts of the field benchmark: what each has learned, and what their open merges are worth.

    python benchmarks/field_experts.py                            # all suites
    python benchmarks/field_experts.py --suite encoder --pairs    # and every pair of experts

For each task, on its test items: the base under the head that was trained with the expert (the zero
line), the expert, their difference, and the best other expert alone, which must not do the task.
Then task arithmetic of the suite's pair and of its crowd, whose coefficients are chosen on
validation items, and V with the worst expert alone: what a merge must beat to say anything. Experts
that are missing are trained first; scores are kept in the cache.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from unmergeable.audit.controls import ALONE
from unmergeable.audit.evaluator import Evaluator
from unmergeable.audit.search import Reference
from unmergeable.audit.value import Value, merge_value
from unmergeable.errors import UnmergeableError
from unmergeable.field.suite import Suite
from unmergeable.field.suites import SUITES
from unmergeable.merging.method import Merged
from unmergeable.running.host import Host
from unmergeable.running.process import restart_once
from unmergeable.running.weights import Weights
from unmergeable.tasks.scoring import Score
from unmergeable.tasks.task import Task
from unmergeable.zoo import cache as store

MARGIN = 0.15  # of accuracy: an expert that gains less is marked
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
    """

    suite: Suite
    base: Path
    names: tuple[str, ...]
    tasks: tuple[Task, ...]
    folders: tuple[Path, ...]

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
    def _evaluator(self) -> Evaluator:
        host, owners = Host.of(self.base), range(len(self.tasks))
        return Evaluator(host, self.base, self.tasks, owners, store.root(), self._origin.tensors)

    @cached_property
    def _files(self) -> list[str]:
        return [store.file_hash(f / "model.safetensors") for f in (self.base, *self.folders)]

    def scores(self, weights: Sequence[float], split: Any) -> list[Score]:
        """Of the base plus so much of each expert's task vector, on every task."""
        about = {"field experts": self._files, "weights": list(weights)}
        return self._evaluator.scores(about, lambda: Merged(self._sum(weights)), split)

    def _sum(self, weights: Sequence[float]) -> dict[str, Any]:
        base = self._origin.tensors
        chosen = [(f, w) for f, w in zip(self.folders, weights, strict=True) if w]
        if len(chosen) == 1 and chosen[0][1] == 1.0:
            return dict(Weights.read(chosen[0][0]).tensors)
        out = {name: tensor.clone() for name, tensor in base.items()}
        for folder, weight in chosen:
            for name, tensor in Weights.read(folder).tensors.items():
                if tensor.is_floating_point():
                    out[name] += weight * (tensor - base[name])
        return out

    def one(self, index: int | None) -> list[float]:
        """The coefficients that give an expert, or the base."""
        return [float(i == index) for i in range(len(self.tasks))]

    def best(self, chosen: Sequence[int], tried: Sequence[Sequence[float]]) -> tuple[Value, Any]:
        """Task arithmetic of some experts: V on test items, and coefficients from validation."""
        found = []
        for split in ("validation", "test"):
            base = self.scores(self.one(None), split)
            experts = [self.scores(self.one(i), split)[i] for i in chosen]
            found.append(([base[i] for i in chosen], experts))
        reference = Reference(*found[0])

        def share(weights: Sequence[float]) -> float:
            got = self.scores(self._spread(chosen, weights), "validation")
            return reference.worst_share([got[i] for i in chosen])

        picked = max(tried, key=share)
        got = self.scores(self._spread(chosen, picked), "test")
        value = merge_value([got[i] for i in chosen], *found[1])
        assert value is not None, "an expert that learned nothing"
        return value, picked

    def alone(self, chosen: Sequence[int]) -> float:
        """The most that one of some experts is worth as their merge."""
        base = self.scores(self.one(None), "test")
        singles = {i: self.scores(self.one(i), "test") for i in chosen}
        worth = [
            merge_value(
                [singles[i][j] for j in chosen],
                [base[j] for j in chosen],
                [singles[j][j] for j in chosen],
            )
            for i in chosen
        ]
        return max(value.value for value in worth if value)

    def _spread(self, chosen: Sequence[int], weights: Sequence[float]) -> list[float]:
        given = dict(zip(chosen, weights, strict=True))
        return [given.get(i, 0.0) for i in range(len(self.tasks))]


def main() -> None:
    """Prints one table a suite."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", nargs="+", default=list(SUITES), choices=list(SUITES))
    parser.add_argument("--only", nargs="+", default=[], help="these tasks alone")
    parser.add_argument("--seed", type=int, default=0, help="of the experts' training")
    parser.add_argument("--pairs", action="store_true", help="merge every pair of experts")
    options = parser.parse_args()
    restart_once(training=True)
    for name in options.suite:
        suite = SUITES[name]
        bench = Bench.of(suite, options.only, options.seed)
        print(f"\n### {suite.title}: seed {options.seed}\n")
        for line in (*table(bench), *merges(bench, options.pairs)):
            print(line, flush=True)


def table(bench: Bench) -> list[str]:
    """What each expert has learned."""
    lines = [
        "| task | classes | train | test | base | expert | gain | other experts alone |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    base = bench.scores(bench.one(None), "test")
    singles = [bench.scores(bench.one(i), "test") for i in range(len(bench.tasks))]
    for i, task in enumerate(bench.tasks):
        own = singles[i][i]
        gain = own.accuracy - base[i].accuracy
        others = {name: singles[j][i].accuracy for j, name in enumerate(bench.names) if j != i}
        best = max(others, key=lambda name: others[name], default="")
        said = f"{others[best]:.1%} ({best})" if best else "-"
        classes = len({item.label for item in task.test})
        mark = "" if gain >= MARGIN else " (small)"
        lines.append(
            f"| {bench.names[i]} | {classes} | {len(task.train)} | {len(task.test)} | "
            f"{share(base[i])} | {share(own)} | {100 * gain:+.1f}{mark} | {said} |"
        )
    return lines


def merges(bench: Bench, pairs: bool) -> list[str]:
    """What open merges are worth."""
    place = {name: i for i, name in enumerate(bench.names)}
    two = list(itertools.combinations(bench.names, 2)) if pairs else []
    if all(name in place for name in bench.suite.pair):
        two = [bench.suite.pair, *(p for p in two if set(p) != set(bench.suite.pair))]
    crowd = bench.suite.crowd
    lines = [
        "",
        "| task arithmetic of | coefficients | V | best expert alone |",
        "| --- | --- | --- | --- |",
    ]
    for names in two:
        lines.append(merged(bench, names, [place[n] for n in names], PAIR))
    if all(name in place for name in crowd):
        tried = [[w] * len(crowd) for w in CROWD]
        lines.append(merged(bench, crowd, [place[n] for n in crowd], tried))
    return lines


def merged(
    bench: Bench, names: Sequence[str], chosen: Sequence[int], tried: Sequence[Sequence[float]]
) -> str:
    """One row: V with its interval, and whether the tasks differ."""
    try:
        value, weights = bench.best(chosen, tried)
    except AssertionError as error:
        return f"| {' + '.join(names)} | - | {error} | - |"
    low, high = value.estimate.low, value.estimate.high
    alone = bench.alone(chosen)
    mark = "" if alone < ALONE else " (tasks do not differ)"
    return (
        f"| {' + '.join(names)} | {', '.join(f'{w:g}' for w in weights)} | {value.value:.2f} "
        f"({low:.2f}-{high:.2f}) | {alone:.2f}{mark} |"
    )


def share(score: Score) -> str:
    """An accuracy with its interval."""
    low, high = score.interval
    return f"{score.accuracy:.1%} ({100 * low:.0f}-{100 * high:.0f})"


if __name__ == "__main__":
    main()
