"""Tasks of a text encoder.

One asks what a text is about: what kind of thing. A sentence encoder knows much of that before it
is trained. Others ask how it is written: is it damaged, what does a marked word do in it, where in
a list is the person, or the largest number? There fine-tuning gains most, and an expert for one of
them is no help with the others.

They come without a head: [`expert`][unmergeable.training.experts.expert] trains one with the trunk.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from unmergeable.bench.data.damaged_definitions import disordered, misspelt, raw_flaws, repeating
from unmergeable.bench.data.glosses import SOURCE as WORDNET
from unmergeable.bench.data.glosses import raw_glosses
from unmergeable.bench.data.largest_number import PLACES as NUMBERS
from unmergeable.bench.data.largest_number import SOURCE as LARGEST
from unmergeable.bench.data.largest_number import raw_largest
from unmergeable.bench.data.parts_of_speech import raw_uses
from unmergeable.bench.data.person_nouns import PLACES as LISTED
from unmergeable.bench.data.person_nouns import raw_persons
from unmergeable.bench.data.wordnet import PARTS
from unmergeable.evaluation.partials import Partial
from unmergeable.evaluation.splitting import split
from unmergeable.evaluation.texts import TextTask

# Lexicographer files with enough definitions: all but "Tops" and "motive".
NOUNS = (*(f"{number:02}" for number in range(4, 16)), *(f"{n:02}" for n in range(17, 29)))


def nouns(
    cache: str | Path | None = None,
    train: int = 240,
    validation: int = 20,
    test: int = 25,
    seed: int = 0,
) -> TextTask:
    """Definition of a noun -> lexicographer file; sizes are items per class (24 classes).

    Args:
        cache: The cache folder.
        train: Items per class in the train split.
        validation: Items per class in the validation split.
        test: Items per class in the test split.
        seed: Changes which definitions go where.

    Raises:
        DownloadError: The package could not be fetched or is not the known one.
    """
    parts = split(raw_glosses("noun", NOUNS, cache), len(NOUNS), train, validation, test, seed)
    return TextTask(name="nouns", title="kind of noun", source=WORDNET, **parts._asdict())


def uses(
    cache: str | Path | None = None,
    train: int = 1200,
    validation: int = 50,
    test: int = 150,
    seed: int = 0,
) -> TextTask:
    """Sentence with a marked word -> its part of speech; sizes are items per class (4 classes).

    Args and errors are those of `nouns`.
    """
    parts = split(raw_uses(cache), len(PARTS), train, validation, test, seed)
    return TextTask(name="uses", title="part of speech", source=WORDNET, **parts._asdict())


def _flaws(
    name: str,
    title: str,
    flaw: Callable[[str, bytes], str],
    cache: str | Path | None = None,
    train: int = 2400,
    validation: int = 100,
    test: int = 300,
    seed: int = 0,
) -> TextTask:
    """Definition -> damaged or not; sizes are items per class (2 classes).

    Args and errors are those of `nouns`, but for the task's name and title and the damage.
    """
    parts = split(raw_flaws(flaw, cache), 2, train, validation, test, seed)
    return TextTask(name=name, title=title, source=WORDNET, **parts._asdict())


typos = Partial(_flaws, "typos", "misspelt or not", misspelt)
order = Partial(_flaws, "order", "words swapped or not", disordered)
repeats = Partial(_flaws, "repeats", "a word twice or not", repeating)  # a long word


def persons(
    cache: str | Path | None = None,
    train: int = 800,
    validation: int = 50,
    test: int = 150,
    seed: int = 0,
) -> TextTask:
    """Four words -> which of them is a person; sizes are items per class (4 classes).

    Args and errors are those of `nouns`.
    """
    parts = split(raw_persons(cache), LISTED, train, validation, test, seed)
    return TextTask(name="persons", title="place of the person", source=WORDNET, **parts._asdict())


def largest(
    cache: str | Path | None = None,
    train: int = 1200,
    validation: int = 50,
    test: int = 150,
    seed: int = 0,
) -> TextTask:
    """Four numbers -> the place of the largest; sizes are items per class (4 classes).

    Args:
        cache: Not used: there is nothing to download.
        train: Items per class in the train split.
        validation: Items per class in the validation split.
        test: Items per class in the test split.
        seed: Changes which lists go where.
    """
    parts = split(raw_largest(), NUMBERS, train, validation, test, seed)
    return TextTask(name="largest", title="place of the largest", source=LARGEST, **parts._asdict())
