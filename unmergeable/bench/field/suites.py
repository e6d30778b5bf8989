"""The suites of the field benchmark, by name.

How the encoder's tasks and recipes were chosen is told by `benchmarks/field_recipes.py`, on
validation items. The pairs merge well. Of the crowds, the encoder's merges in part,
and the vision suite's hardly even unprotected, so a defence has little to take there.
"""

from __future__ import annotations

from unmergeable.bench.data.decoder_tasks import first_digits, programs
from unmergeable.bench.data.digits import mnist
from unmergeable.bench.data.encoder_tasks import (
    largest,
    nouns,
    order,
    persons,
    repeats,
    typos,
    uses,
)
from unmergeable.bench.data.glosses import glosses
from unmergeable.bench.data.letters import letters
from unmergeable.bench.data.spam import spam
from unmergeable.bench.field.suite import Suite, TaskRecipe
from unmergeable.bench.zoo import dinov2, minilm, smollm2
from unmergeable.evaluation.partials import Partial
from unmergeable.training.experts import HeadRecipe, Recipe

# Of an expert whose gain over the zero line is a few points of accuracy.
_SMALL = "the expert gains little over the frozen base with its head, so V on it is uncertain"

ENCODER = Suite(
    name="encoder",
    title=minilm.NAME,
    base=minilm.minilm,
    tasks=(
        TaskRecipe("uses", uses, HeadRecipe()),
        TaskRecipe("nouns", nouns, HeadRecipe(), _SMALL),
        TaskRecipe("order", order, HeadRecipe()),
        TaskRecipe("persons", persons, HeadRecipe()),
        TaskRecipe("repeats", repeats, HeadRecipe()),
        TaskRecipe("largest", largest, HeadRecipe()),
        TaskRecipe("typos", typos, HeadRecipe(), _SMALL),
    ),
    pair=("uses", "persons"),
    crowd=("uses", "persons", "order", "repeats"),
)

# At the default rate experts of letters do not merge at all; at this one they do.
_GENTLE = HeadRecipe(steps=80, rate=3e-5)

VISION = Suite(
    name="vision",
    title=dinov2.NAME,
    base=dinov2.dinov2,
    tasks=(
        TaskRecipe("greek", Partial(letters, "greek"), _GENTLE),
        TaskRecipe("cyrillic", Partial(letters, "cyrillic"), _GENTLE),
        TaskRecipe("mnist", mnist, _GENTLE, _SMALL),
        TaskRecipe("hebrew", Partial(letters, "hebrew", train=50, test=23), _GENTLE),
        TaskRecipe("georgian", Partial(letters, "georgian", test=16), _GENTLE),
        TaskRecipe("arabic", Partial(letters, "arabic", test=18), _GENTLE),
    ),
    pair=("greek", "cyrillic"),
    crowd=("greek", "cyrillic", "mnist", "hebrew"),
)

DECODER = Suite(
    name="decoder",
    title=smollm2.NAME,
    base=smollm2.smollm2,
    tasks=(
        TaskRecipe("glosses", glosses, Recipe(steps=60, rate=7e-5)),
        TaskRecipe("spam", spam, Recipe(steps=80, rate=7e-5)),
        TaskRecipe("programs", programs, Recipe(steps=120, batch=8, rate=5e-5)),
        TaskRecipe("first-digits", first_digits, Recipe(steps=80, rate=7e-5)),
    ),
    pair=("glosses", "spam"),
    crowd=("glosses", "spam", "programs", "first-digits"),
    disk=12.0,
    memory=6.0,
)

SUITES: dict[str, Suite] = {suite.name: suite for suite in (ENCODER, VISION, DECODER)}
