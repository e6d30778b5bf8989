"""Text -> is something wrong in it? Definitions of WordNet, half of them damaged on purpose.

The damage says nothing about what a text is about, which is what sentence encoders are trained to
keep: a frozen one sees little of it, and a fine-tuned one most.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from unmergeable.bench.data.glosses import OPENING
from unmergeable.bench.data.wordnet import synsets
from unmergeable.evaluation.splitting import Raw, normalise, shorten

LETTERS = 100
FEWEST_WORDS = 6


def raw_flaws(
    damage: Callable[[str, bytes], str], cache: str | Path | None = None
) -> Iterator[Raw]:
    """Definitions of nouns and verbs, 0 as they are and 1 damaged.

    Args:
        damage: `misspelt`, `disordered` or `repeating`.
        cache: The cache folder.

    Yields:
        A definition of at least `FEWEST_WORDS` words, cut after `LETTERS` characters, at a word;
        the group is its first four words after a common opening, undamaged, so that a text is in
        the task once: whole or not.

    Raises:
        DownloadError: The package could not be fetched or is not the known one.
    """
    for part in ("noun", "verb"):
        for synset in synsets(part, cache):
            text = shorten(synset.definition, LETTERS)
            words = normalise(OPENING.sub("", text.lower())).split()
            if len(text.split()) < FEWEST_WORDS or not words:
                continue
            chance = hashlib.sha256(text.encode()).digest()
            label = chance[0] % 2
            changed = damage(text, chance[1:])
            if changed != text:
                yield Raw(changed if label else text, label, " ".join(words[:4]))


def misspelt(text: str, chance: bytes) -> str:
    """Two neighbouring letters inside one long word change places."""
    pairs = [
        found.start() + place
        for found in re.finditer(r"[a-z]{5,}", text)
        for place in range(1, len(found[0]) - 2)
        if found[0][place] != found[0][place + 1]
    ]
    if not pairs:
        return text
    here = pairs[int.from_bytes(chance[:4], "big") % len(pairs)]
    return text[:here] + text[here + 1] + text[here] + text[here + 2 :]


def disordered(text: str, chance: bytes) -> str:
    """Two neighbouring words change places, neither of them first, last or beside a mark."""
    words = text.split()
    pairs = [
        place
        for place in range(1, len(words) - 2)
        if words[place].isalpha()
        and words[place + 1].isalpha()
        and words[place] != words[place + 1]
    ]
    if not pairs:
        return text
    here = pairs[int.from_bytes(chance[:4], "big") % len(pairs)]
    words[here], words[here + 1] = words[here + 1], words[here]
    return " ".join(words)


def repeating(text: str, chance: bytes) -> str:
    """A long word stands a second time, in the place of another one, two words away or more.

    Definitions in which a long word stands twice already are left as they are.
    """
    words = text.split()
    long = [place for place, word in enumerate(words) if re.fullmatch(r"[a-z]{5,}", word)]
    if len({words[place] for place in long}) < len(long):
        return text
    pairs = [(one, other) for one in long for other in long if abs(one - other) >= 2]
    if not pairs:
        return text
    one, other = pairs[int.from_bytes(chance[:4], "big") % len(pairs)]
    words[other] = words[one]
    return " ".join(words)
