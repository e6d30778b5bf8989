"""Tasks of a causal language model that need nothing but a prompt: kinds of programs, and sums.

The others have files of their own: [`glosses`][unmergeable.bench.data.glosses.glosses] and
[`spam`][unmergeable.bench.data.spam.spam].
"""

from __future__ import annotations

from pathlib import Path

from unmergeable.bench.data.debian import SECTIONS, raw_descriptions
from unmergeable.bench.data.debian import SOURCE as DEBIAN
from unmergeable.bench.data.sums import DIGITS, raw_sums
from unmergeable.bench.data.sums import SOURCE as SUMS
from unmergeable.evaluation.label_words import WordTask
from unmergeable.evaluation.splitting import split


def programs(
    cache: str | Path | None = None,
    train: int = 130,
    validation: int = 20,
    test: int = 50,
    seed: int = 0,
) -> WordTask:
    """One-line description of a Debian package -> its section; sizes are items per class.

    Args:
        cache: The cache folder.
        train: Items per class (10 classes) in the train split.
        validation: Items per class in the validation split.
        test: Items per class in the test split.
        seed: Changes which descriptions go where.

    Raises:
        DownloadError: This machine has no index of Debian's packages.
    """
    parts = split(raw_descriptions(cache), len(SECTIONS), train, validation, test, seed)
    return WordTask(
        name="programs",
        title="kind of program",
        template="Package: {text}\nSection:",
        words=tuple(f" {section}" for section in SECTIONS),
        source=DEBIAN,
        **parts._asdict(),
    )


def first_digits(
    cache: str | Path | None = None,
    train: int = 250,
    validation: int = 25,
    test: int = 70,
    seed: int = 0,
) -> WordTask:
    """Two numbers -> first digit of their sum; sizes are items per class (8 classes).

    Args:
        cache: Not used: there is nothing to download.
        train: Items per class in the train split.
        validation: Items per class in the validation split.
        test: Items per class in the test split.
        seed: Changes which sums go where.
    """
    parts = split(raw_sums(), len(DIGITS), train, validation, test, seed)
    return WordTask(
        name="first-digits",
        title="first digit of a sum",
        # The prompt ends in a space: digits are tokens of their own, and take none before them.
        template="{text} = ",
        words=DIGITS,
        source=SUMS,
        **parts._asdict(),
    )
