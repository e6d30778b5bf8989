"""Two nouns -> how the first is related to the second: WordNet's relations."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from unmergeable.tasks.splitting import Raw
from unmergeable.tasks.wordnet import Synset, synsets

# A kind of the second; more general than it; a part of it; a whole it is part of; the same.
RELATIONS = ("kind", "general", "part", "whole", "same")
SYMBOLS = {"@": 0, "#p": 2}


def raw_relations(cache: str | Path | None = None) -> Iterator[Raw]:
    """Pairs of nouns of one word each, labelled by where their relation is in `RELATIONS`.

    Args:
        cache: The cache folder.

    Yields:
        "poodle and dog"; the group is the more general or larger of the two senses, of which one
        pair is kept.

    Raises:
        DownloadError: The package could not be fetched or is not the known one.
    """
    by_key = {synset.key: synset for synset in synsets("noun", cache)}
    for synset in by_key.values():
        own = plain(synset)
        for other in own[1:2]:
            yield Raw(f"{own[0]} and {other}", 4, synset.key)
        for symbol, key in synset.pointers:
            others = plain(by_key[key]) if symbol in SYMBOLS else []
            if own and others:
                turned = hashlib.sha256(f"{synset.key} {key}".encode()).digest()[0] % 2
                first, second = (others, own) if turned else (own, others)
                yield Raw(f"{first[0]} and {second[0]}", SYMBOLS[symbol] + turned, key)


def plain(synset: Synset) -> list[str]:
    """The words of a sense that are one word each, and no names."""
    return [word for word in synset.words if word.isalpha() and word.islower()]
