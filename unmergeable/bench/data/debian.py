"""One-line descriptions of Debian's packages, with the section that each package is in.

They are read from the machine's own package index, so they are there on Debian and its relatives
alone, and differ from one release to the next. What was read first is kept in the cache, so that a
task stays as it is when the index is updated.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

from unmergeable.errors import DownloadError
from unmergeable.evaluation import store
from unmergeable.evaluation.splitting import Raw, normalise

SECTIONS = (
    *("science", "games", "sound", "net", "admin"),
    *("graphics", "text", "fonts", "mail", "math"),
)
SOURCE = "descriptions of Debian's packages (terms of each package), from the machine's index"
FILE = "descriptions.jsonl"
# Fewer paragraphs are no index of a release, only of what is installed.
FEWEST = 10_000


def raw_descriptions(cache: str | Path | None = None) -> Iterator[Raw]:
    """Descriptions of the packages of `SECTIONS`, labelled by where their section is in it.

    Args:
        cache: The cache folder.

    Yields:
        A description; the group is the source package, so that what is built from one source, and
        is described in nearly the same words, counts once.

    Raises:
        DownloadError: This machine has no index of Debian's packages.
    """

    def make(folder: Path) -> None:
        lines = [json.dumps(row) for row in read(_index())]
        (folder / FILE).write_text("\n".join(lines) + "\n", encoding="utf-8")

    folder = store.get_or_make("data/debian", {"sections": SECTIONS, "code": 1}, make, cache)
    for line in (folder / FILE).read_text(encoding="utf-8").splitlines():
        yield Raw(*json.loads(line))


def _index() -> str:
    try:
        done = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, check=False)
        text = done.stdout.decode(errors="replace")
    except FileNotFoundError:
        text = ""
    if text.count("\nPackage: ") < FEWEST:
        raise DownloadError(
            "this machine has no index of Debian's packages: on Debian, run `apt-get update`; "
            "elsewhere, choose another task"
        )
    return text


def read(index: str) -> Iterator[Raw]:
    """Reads an index: paragraphs of fields."""
    labels = {section: number for number, section in enumerate(SECTIONS)}
    for paragraph in index.split("\n\n"):
        lines = [line.partition(":") for line in paragraph.splitlines() if not line[:1].isspace()]
        fields = {name: value.strip() for name, _, value in lines}
        text = fields.get("Description") or fields.get("Description-en", "")
        section = fields.get("Section", "").rpartition("/")[2]  # "contrib/games" is games too
        if section in labels and normalise(text):
            source = fields.get("Source") or fields["Package"]
            yield Raw(text, labels[section], source.split()[0])  # without a version in brackets
