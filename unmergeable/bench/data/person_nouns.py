"""Four words -> which of them is a person: nouns of WordNet.

An encoder's summary of a list says what is in it, and hardly in which place.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from unmergeable.bench.data.wordnet import synsets
from unmergeable.evaluation.splitting import Raw

PERSON = "18"
# Lexicographer files of what no person is: acts, artefacts, states, substances and the like.
OTHERS = ("04", "06", "07", "10", "15", "21", "26", "27", "28")
PLACES = 4


def raw_persons(cache: str | Path | None = None) -> Iterator[Raw]:
    """Lists of four words, labelled by the place of the one that is a person.

    Args:
        cache: The cache folder.

    Yields:
        "lathe , baker , treaty , gravel"; the group is the person. No word stands in two lists, so
        that no two splits share one.

    Raises:
        DownloadError: The package could not be fetched or is not the known one.
    """
    kinds: dict[str, set[str]] = defaultdict(set)
    for synset in synsets("noun", cache):
        for word in synset.words:
            kinds[word].add(synset.kind)
    # A word with several senses is asked about only if all of them say the same.
    usual = sorted((w for w in kinds if re.fullmatch(r"[a-z]{3,10}", w)), key=_rank)
    persons = [word for word in usual if kinds[word] == {PERSON}]
    others = (word for word in usual if kinds[word] <= set(OTHERS))
    for number, person in enumerate(persons):
        words = list(islice(others, PLACES - 1))
        if len(words) < PLACES - 1:
            return
        label = number % PLACES
        words.insert(label, person)
        yield Raw(" , ".join(words), label, person)


def _rank(word: str) -> bytes:
    """What an order that nobody chose is sorted by."""
    return hashlib.sha256(word.encode()).digest()
