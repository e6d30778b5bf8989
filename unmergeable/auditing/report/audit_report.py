"""What an audit gives back: its document, as an object that saves and shows itself."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

from unmergeable.auditing.report.check import check
from unmergeable.auditing.report.html import render_html
from unmergeable.auditing.report.markdown import render_markdown
from unmergeable.auditing.report.schema import Cell, Document, Verdict
from unmergeable.checkpoint.small_files import write_over
from unmergeable.errors import InputError


class AuditReport:
    """A finished audit.

    A notebook shows it as the page that `save` writes.

    Args:
        document: what `report.json` holds; see `auditing.report.schema`.

    Raises:
        InputError: the document is not a report.

    Examples:
        >>> report = unmergeable.audit(
        ...     "locked",
        ...     base="base",
        ...     original="expert",
        ...     peers=["peer"],
        ...     tasks="tasks.yaml",
        ...     preset="demo",
        ... )
        >>> report.verdict["answer"] in ("broken", "holds", "undecided")
        True
        >>> paths = report.save("report")
        >>> unmergeable.AuditReport.load(paths["json"]).verdict == report.verdict
        True
    """

    def __init__(self, document: Any) -> None:
        self._document: Document = check(document)

    @classmethod
    def load(cls, path: str | Path) -> AuditReport:
        """Reads a `report.json`.

        Raises:
            InputError: there is no such file, or it holds no report.
        """
        try:
            return cls(json.loads(Path(path).read_text(encoding="utf-8")))
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(f"{path} cannot be read as a report: {error}.") from None

    @property
    def verdict(self) -> Verdict:
        """The answer (`broken`, `holds` or `undecided`), its sentence and its reasons."""
        return self._document["verdict"]

    @property
    def cells(self) -> list[Cell]:
        """What was measured: one entry for each subject, attack and merge method."""
        return self._document["cells"]

    def to_dict(self) -> Document:
        """The whole document, as `report.json` holds it."""
        return self._document

    def save(self, folder: str | Path) -> dict[str, Path]:
        """Writes `report.json`, `report.html` and `report.md`, each under a temporary name first.

        Args:
            folder: made if it is not there.

        Returns:
            The files, by their suffix.
        """
        folder = Path(folder)
        content = json.dumps(self._document, indent=1, ensure_ascii=False, allow_nan=False)
        texts = {
            "json": content + "\n",
            "html": render_html(self._document),
            "md": render_markdown(self._document),
        }
        paths = {suffix: folder / f"report.{suffix}" for suffix in texts}
        folder.mkdir(parents=True, exist_ok=True)
        for suffix, text in texts.items():
            write_over(paths[suffix], text.encode())
        return paths

    def __str__(self) -> str:
        return render_markdown(self._document)

    def __repr__(self) -> str:
        return f"AuditReport({self.verdict['answer']}: {self.verdict['sentence']!r})"

    def _repr_html_(self) -> str:
        page = html.escape(render_html(self._document))
        return f'<iframe srcdoc="{page}" style="width: 100%; height: 48em; border: 0"></iframe>'
