"""A suite as small as it can be: a tiny Llama, two made-up tasks that merge, three in a crowd."""

import random
from dataclasses import replace
from functools import cache
from pathlib import Path

from tests.auditing.scene import THEIRS, scene, stones
from tests.evaluation.living import FILLERS, TASK, items
from unmergeable.bench.field.suite import Suite, TaskRecipe
from unmergeable.evaluation.label_words import WordTask
from unmergeable.evaluation.task import Item
from unmergeable.training.experts import Recipe

RECIPE = Recipe(steps=40, batch=16, rate=1.5e-3)


def base(cache=None):
    """The tiny base that has seen a little of the tasks."""
    return Path(scene()["base"])


def living(cache=None):
    return replace(TASK, validation=items(40, 2))


def others(cache=None):
    return replace(THEIRS, validation=stones(40, 7))


def fillers(count, seed):
    draw = random.Random(seed)
    out = []
    for _ in range(count):
        kind = draw.randrange(2)
        out.append(Item(" ".join([FILLERS[10 + kind], *draw.choices(FILLERS[:6], k=4)]), kind))
    return tuple(out)


def pebbles(cache=None):
    return WordTask(
        name="pebbles",
        title="pebbles",
        template="{text} w18 :",
        words=("w16", "w15"),
        train=fillers(96, 8),
        validation=fillers(40, 9),
        test=fillers(90, 10),
    )


@cache
def suite():
    return Suite(
        name="tiny",
        title="a tiny Llama",
        base=base,
        tasks=(
            TaskRecipe("living", living, RECIPE),
            TaskRecipe("stones", others, RECIPE, note="made up"),
            TaskRecipe("pebbles", pebbles, RECIPE),
        ),
        pair=("living", "stones"),
        crowd=("living", "stones", "pebbles"),
        disk=0.1,
        memory=0.1,
    )
