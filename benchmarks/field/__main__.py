"""The field benchmark into docs/: `python benchmarks/field`, or `make field`.

The same as `unmergeable bench field --out docs`, whose options it takes; the code is in
unmergeable/bench/field, so that it can be run where this repository is not. What the README shows
of one suite is written, too.
"""

from __future__ import annotations

import sys
from pathlib import Path

from unmergeable.bench.field.page import excerpt
from unmergeable.checkpoint.markdown_sections import put
from unmergeable.cli import main
from unmergeable.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
SHOWN = "encoder"
BEGIN, END = "<!-- field: begin -->", "<!-- field: end -->"


def show(readme: Path) -> None:
    text = readme.read_text("utf-8")
    if BEGIN not in text:
        return
    shown = excerpt(ROOT / "docs", SHOWN, "docs")
    readme.write_text(put(text, BEGIN, END, f"\n{shown}\n"), "utf-8")


if __name__ == "__main__":
    code = main(["bench", "field", "--out", str(ROOT / "docs"), *sys.argv[1:]])
    if code == 0:
        try:
            show(ROOT / "README.md")
        except InputError as error:
            print(error, file=sys.stderr)
    sys.exit(code)
