"""The one family of errors: a sentence that says what was wrong, the value, and what to do."""

from __future__ import annotations

import re
import reprlib
from typing import Any

LONGEST = 1600
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = LONGEST  # `clip` cuts them
_SHORT.maxlong = 40
_DIGITS = 20
_LONG_WORD = re.compile(r"\S{300,}")


def clip(value: object, limit: int = 120) -> str:
    """A value from a file or a name, fit for a sentence: one line, printable, of bounded length.

    Args:
        value: a text, or what Python would print of it.
        limit: the most characters; what is longer loses its middle.
    """
    text = str(value)
    if len(text) > limit:
        head = limit * 2 // 3
        text = f"{text[:head]}…{text[len(text) - (limit - head - 1) :]}"
    if text.isprintable():
        return text
    shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    escaped = "".join(shown)
    return escaped if len(escaped) <= limit else f"{escaped[: limit - 1]}…"


def quoted(value: Any, limit: int = 120) -> str:
    """What Python prints of any value, fit for a sentence: see `clip`.

    Args:
        value: whatever a file gave: a number of a million digits, a list in a thousand lists.
        limit: the most characters.
    """
    if isinstance(value, int) and abs(value) >= 10**_DIGITS:
        return f"a number of about {int(value.bit_length() * 0.30103) + 1} digits"
    try:
        return clip(_SHORT.repr(value), limit)
    except ValueError:  # of such a number inside
        return f"a {type(value).__name__} of numbers that are too long to print"


def one_line(sentence: object) -> str:
    """A sentence about hostile input: one printable line, in which endless words are clipped."""
    return clip(_LONG_WORD.sub(lambda word: clip(word[0]), str(sentence)), LONGEST)


class UnmergeableError(Exception):
    """Base of every error this package raises on purpose; `exit_code` is the command line's.

    Whatever it quotes of hostile input, its text is one printable line of bounded length.

    Examples:
        >>> try:
        ...     unmergeable.inspect("nowhere")
        ... except unmergeable.UnmergeableError as error:
        ...     error.exit_code
        2
    """

    exit_code = 2

    def __init__(self, *sentence: object) -> None:
        super().__init__(*map(one_line, sentence))


class InputError(UnmergeableError):
    """A file, folder or setting that cannot be used as given."""


class KeyFileError(UnmergeableError):
    """A key file that is damaged, locked by a passphrase, or not the key of this model."""


class ManifestError(UnmergeableError):
    """A protected folder whose manifest is missing, damaged or at odds with its files."""


class PrecisionError(UnmergeableError):
    """A change that the storage dtype cannot hold exactly."""


class DownloadError(UnmergeableError):
    """Something that had to come over the network and did not."""


class MissingExtraError(UnmergeableError):
    """An optional part of the package that is not installed."""


class ClusterError(UnmergeableError):
    """A Ray cluster that cannot be reached, or that lost its machines; finished work is kept."""


class DeviceError(UnmergeableError):
    """An accelerator that was lost in the middle of work; finished work is kept."""


class UnsupportedError(UnmergeableError):
    """A model whose architecture, class or tensor nobody has declared."""

    exit_code = 3
