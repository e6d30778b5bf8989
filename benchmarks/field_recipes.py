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
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from field_experts import Bench, shown

from unmergeable.auditing.search import Reference
from unmergeable.bench.field.suite import Suite
from unmergeable.bench.field.suites import ENCODER
from unmergeable.models.process import restart_once
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


def suite_of(recipe: str) -> Suite:
    """The encoder suite with one recipe for all of its tasks."""
    names = TASKS[recipe]
    tasks = [replace(ENCODER[name], recipe=RECIPES[recipe]) for name in names]
    return replace(ENCODER, tasks=tuple(tasks), pair=(names[0], names[-1]), crowd=names)


def learned(bench: Bench, recipe: str) -> Iterator[str]:
    """What each expert has learned."""
    yield "| recipe | task | base | expert | gain, points |"
    yield "| --- | --- | --- | --- | --- |"
    for place, name in enumerate(bench.names):
        (low,) = bench.scores([place], {}, "validation")
        (high,) = bench.scores([place], {place: 1.0}, "validation")
        gain = 100 * (high.accuracy - low.accuracy)
        yield f"| {recipe} | {name} | {shown(low)} | {shown(high)} | {gain:+.1f} |"


def merged(bench: Bench, recipe: str) -> Iterator[str]:
    """What open merges of the owner's expert with one other, and with many, are worth."""
    yield "| recipe | merge of | coefficient | V |"
    yield "| --- | --- | --- | --- |"
    owner, *others = bench.names
    for names in (*((owner, other) for other in others), *CROWDS):
        if not set(names) <= set(bench.names):
            continue
        chosen = [bench.names.index(name) for name in names]
        reference = Reference(
            bench.scores(chosen, {}, "validation"),
            [bench.scores([place], {place: 1.0}, "validation")[0] for place in chosen],
        )
        worth = {
            c: reference.worst_share(bench.scores(chosen, dict.fromkeys(chosen, c), "validation"))
            for c in COEFFICIENTS
        }
        best = max(worth, key=lambda c: worth[c])
        yield f"| {recipe} | {' + '.join(names)} | {best:g} | {max(0.0, worth[best]):.2f} |"


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
        bench = replace(Bench.of(suite_of(recipe), (), 0), chosen_on=-1)
        told += ["", *learned(bench, recipe)]
        if len(bench.names) > 1:
            told += ["", *merged(bench, recipe)]
        print("\n".join(told), flush=True)
    if options.write:
        DOCS.write_text("\n".join(told) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
