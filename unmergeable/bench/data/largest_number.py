"""Four numbers -> the place of the largest: made up, nothing to download.

An encoder's summary of a list says what is in it, and hardly in which place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from unmergeable.evaluation.splitting import Raw

PLACES = 4
SOURCE = "lists of four numbers, made up"
_LISTS = 12_000
_LEAST, _MOST = 10, 99


def raw_largest() -> Iterator[Raw]:
    """Lists of four numbers of two digits, labelled by the place of the largest.

    Yields:
        "31 , 47 , 93 , 12"; the group is the numbers in order of size.
    """
    for count in range(_LISTS):
        chance = hashlib.sha256(f"{count}".encode()).digest()
        numbers = [
            _LEAST + int.from_bytes(chance[4 * place : 4 * place + 4], "big") % (_MOST - _LEAST + 1)
            for place in range(PLACES)
        ]
        if len(set(numbers)) == PLACES:
            label = numbers.index(max(numbers))
            yield Raw(" , ".join(map(str, numbers)), label, " ".join(map(str, sorted(numbers))))
