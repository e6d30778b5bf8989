"""The field benchmark into docs/: `python benchmarks/field`, or `make field`.

The same as `unmergeable bench field --out docs`, whose options it takes; the code is in
unmergeable/field, so that it can be run where this repository is not.
"""

from __future__ import annotations

import sys
from pathlib import Path

from unmergeable.cli import main

if __name__ == "__main__":
    docs = Path(__file__).resolve().parents[2] / "docs"
    sys.exit(main(["bench", "field", "--out", str(docs), *sys.argv[1:]]))
