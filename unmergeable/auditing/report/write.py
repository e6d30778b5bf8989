"""Writes a report's three files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unmergeable.auditing.report.check import check
from unmergeable.auditing.report.html import render_html
from unmergeable.auditing.report.markdown import render_markdown


def write_report(document: Mapping[str, Any], folder: str | Path) -> dict[str, Path]:
    """Writes `report.json`, `report.html` and `report.md`, each under a temporary name first.

    Args:
        document: the report.
        folder: made if it is not there.

    Returns:
        The files, by their suffix.

    Raises:
        InputError: the document is not a report.
    """
    check(document)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "json": json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "html": render_html(document),
        "md": render_markdown(document),
    }
    paths = {suffix: folder / f"report.{suffix}" for suffix in texts}
    for suffix, text in texts.items():
        partial = paths[suffix].with_name(f".{paths[suffix].name}.partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(paths[suffix])
    return paths
