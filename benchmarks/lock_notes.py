"""Marks the figures in the docs that were measured while the default lock had powers of two.

    python benchmarks/lock_notes.py

Which lock a figure is of is read from the repository's history: the commit that put it down, and
what that commit's lock did unasked. Each note stands between markers of its own, below the table
(or under the heading) that it is about; notes are written anew in every run. A figure that was
measured again is no longer found, which the script says: then its entry goes from `FIGURES`.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import NamedTuple

from unmergeable.checkpoint.markdown_sections import part

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- lock: begin -->", "<!-- lock: end -->"
NOTE = (
    "*Measured with `--set scales=true`, the default until manifest version 6: lossless locks here "
    "have powers of two besides permutations and signs.*"
)
LOCK = "unmergeable/defences/lock.py"
POWERS_UNASKED = '"scales": "auto (default)'  # in the lock's settings, as they were until then


class Figure(NamedTuple):
    """A measured text, and a line of its page whose paragraph or table the note follows."""

    text: str
    after: str = ""  # the text itself, if there is none


FIGURES: dict[str, list[Figure]] = {
    "README.md": [Figure("| lock | 0.95 (0.89 to 0.99) | 0.07 (0.00 to 0.12)")],
    "docs/attacks.md": [
        Figure("1033 s, peak 4.26 GB", "| locked victim, aligned, task arithmetic, 1.0 |"),
    ],
    "docs/defences.md": [
        Figure("| lock | 93.2% (+0.0) | 0.07 (0.00-0.19)"),
        Figure("| lock | 93.0% (+0.0) | 0.00 (0.00-0.00); 4 and 3%"),
        Figure("| lock | 91.2% (+0.2) | 0.00 (0.00-0.00)"),
    ],
    "docs/field.md": [Figure("ARF + lock 0.59 (0.48 to 0.68)")],
    "docs/performance.md": [
        Figure("3.16 (2.93 to 3.44)"),
        Figure("36 min 35 s", "joined it; it has not been measured since."),
        Figure("0.60 (0.56 to 0.81)"),
    ],
    "docs/results.md": [
        Figure("`encoder-lock-52107bbbb54431bf`", "## Encoder: all-MiniLM-L6-v2"),
        Figure("`738442ab7ec4f67c`", "## Vision: DINOv2-small-derived backbone"),
    ],
    "docs/scale.md": [
        Figure("| 135M | lossless | 30 | 49152 | 0.27 | 0.90 (0.84 to 0.93)"),
        Figure("| processor seconds a GB, either lock | 0.79 |", "| lossless | 2 | 4.0 | 2.5 (2.4"),
    ],
}


def main() -> None:
    """Writes the notes."""
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        name = page.relative_to(ROOT).as_posix()
        text = page.read_text("utf-8")
        noted = without_notes(text)
        for figure in FIGURES.get(name, []):
            if figure.text not in noted:
                print(f"{name}: {figure.text!r} is not there any more: drop its entry.")
            elif had_powers(figure.text):
                noted = with_note(noted, figure.after or figure.text)
        if noted != text:
            page.write_text(noted, "utf-8")
            print(f"{name}: {noted.count(BEGIN)} notes")


def had_powers(figure: str) -> bool:
    """Whether the default lock had powers of two when a figure was first put down."""
    places = ("--", "README.md", "docs")
    commits = git("log", "--format=%H", f"-S{figure}", *places).split()
    # A figure that no commit has is of today's code.
    return bool(commits) and POWERS_UNASKED in git("show", f"{commits[-1]}:{LOCK}")


def git(*command: str) -> str:
    """What git prints."""
    return subprocess.run(
        ["git", *command], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout


def without_notes(text: str) -> str:
    """A page without its notes."""
    return re.sub(rf"\n\n{BEGIN}\n.*?\n{END}", "", text, flags=re.DOTALL)


def with_note(text: str, after: str) -> str:
    """A page with a note below the paragraph, table or block of code that holds a text."""
    start = text.find(after)
    if start < 0:
        raise SystemExit(f"no page line has {after!r}, which a note should follow")
    fenced = text.count("\n```", 0, start) % 2
    block = re.compile(r"\n```(?=\n)" if fenced else r"(?=\n\n|\n<!--|\n?\Z)")
    found = block.search(text, start)
    if not found:
        raise ValueError(f"the block of {after!r} has no end")
    return f"{text[: found.end()]}\n\n{part(BEGIN, END, NOTE)}{text[found.end() :]}"


if __name__ == "__main__":
    main()
