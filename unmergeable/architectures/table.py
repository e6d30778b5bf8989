"""The guide's table of families, written from the data files: `make docs`.

`python -m unmergeable.architectures.table GUIDE` puts it between the guide's markers.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from unmergeable.architectures.declaration import GUIDE, REFUSED, load, stems
from unmergeable.architectures.rules import Declaration, SpaceRule, Variant
from unmergeable.checkpoint.markdown_sections import put

BEGIN, END = "<!-- families: begin -->", "<!-- families: end -->"
_BEGIN, _END = "<!-- refused: begin -->", "<!-- refused: end -->"
HEAD = ("family (file; model type, if another)", "model classes", "spaces by group", "restrictions")
# Reasons that every family has, and that take nothing from its protection.
_ROUTINE = re.compile(r"interface|computation|axis|buffer|checkpoints|width of|is one number|^gate")


def table() -> str:
    """One row per data file, in Markdown."""
    rows = [HEAD, ("---",) * len(HEAD), *(_row(stem, load(stem)) for stem in stems())]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def written(guide: str) -> str:
    """The guide's text with the table as it is now.

    Raises:
        ValueError: a text without the markers.
    """
    refused = "\n".join(f"- `{name}`: {why}." for name, why in REFUSED.items())
    return put(put(guide, BEGIN, END, table()), _BEGIN, _END, refused)


def _row(stem: str, rule: Declaration) -> tuple[str, ...]:
    name = f"`{stem}`" if stem == rule.model_type else f"`{stem}`; `{rule.model_type}`"
    groups: dict[str, list[str]] = {}
    for space in _used(rule):
        if space.group:
            groups.setdefault(space.group, []).append(space.name)
    found = [f"{group}: {', '.join(names)}" for group, names in groups.items()]
    found += [f"those of the family that `{part.config}` names" for part in rule.parts]
    spaces = "; ".join(found)
    return (
        f"{rule.family} ({name})",
        ", ".join(rule.classes),
        spaces,
        "; ".join(_restrictions(rule)),
    )


def _used(rule: Declaration) -> Iterator[SpaceRule]:
    """The spaces that some tensor lives in: a file that is `like` another may leave some behind."""
    heads = (row for one in rule.classes.values() for row in one.tensors)
    rows = (*rule.tensors, *heads)
    names = {name for row in rows for axis in (*row.axes, *row.slots()) for name in axis.names()}
    return (space for space in rule.spaces.values() if space.name in names)


def _restrictions(rule: Declaration) -> Iterator[str]:
    reasons: dict[str, list[str]] = {}
    for space in _used(rule):
        if space.fixed and not _ROUTINE.search(space.fixed):
            reasons.setdefault(f"fixed: {space.fixed}", []).append(space.name)
    for reason, names in reasons.items():
        yield f"{', '.join(names)} {reason}"
    for variant in rule.variants:
        if changes := _changes(variant):
            yield f"where `{variant.when}`: {changes}"


def _changes(variant: Variant) -> str:
    """What a variant changes besides sizes."""
    found: dict[str, list[str]] = {}
    for name, change in variant.spaces.items():
        if what := _change(change):
            found.setdefault(what, []).append(name)
    return ", ".join(f"{', '.join(names)} {what}" for what, names in found.items())


def _change(change: Mapping[str, str]) -> str:
    if "joins" in change:
        return f"is one with {change['joins']}"
    if "group" in change:
        return f"→ {change['group']}"
    return f"fixed: {change['fixed']}" if "fixed" in change else ""


def main() -> None:
    """Writes the table into the guide whose path is given."""
    path = Path(sys.argv[1] if len(sys.argv) > 1 else GUIDE)
    path.write_text(written(path.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
