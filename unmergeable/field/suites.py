"""The suites of the field benchmark, by name."""

from __future__ import annotations

from collections.abc import Sequence

from unmergeable.errors import InputError
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


def chosen_suites(names: Sequence[str] = ()) -> list[Suite]:
    """The suites of these names; all without names.

    Raises:
        InputError: an unknown name.
    """
    if unknown := [name for name in names if name not in SUITES]:
        raise InputError(f"no suite {unknown[0]!r}; there is {', '.join(SUITES)}.")
    return [SUITES[name] for name in names or SUITES]
