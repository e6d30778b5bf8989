"""The suites of the field benchmark, by name."""

from __future__ import annotations

from unmergeable.field.suite import Suite, TaskRecipe
from unmergeable.tasks.encoder_tasks import mails, nouns, sections, verbs
from unmergeable.training.experts import HeadRecipe
from unmergeable.zoo import minilm

ENCODER = Suite(
    name="encoder",
    title=minilm.NAME,
    base=minilm.minilm,
    tasks=(
        TaskRecipe("nouns", nouns, HeadRecipe()),
        TaskRecipe("verbs", verbs, HeadRecipe(steps=120)),
        TaskRecipe("mails", mails, HeadRecipe()),
        TaskRecipe("sections", sections, HeadRecipe()),
    ),
    pair=("nouns", "mails"),
    crowd=("nouns", "mails", "sections", "verbs"),
)

SUITES: dict[str, Suite] = {suite.name: suite for suite in (ENCODER,)}
