"""The cells of a suite as data of a repository: one compressed file beside the page, a line a cell.

`results-SUITE.jsonl.gz` is all that the page is made from. Its first line is the suite's index,
with the places that were planned and not measured; every other line is a cell with its place. How
items were answered is packed: a bit each, or a byte where marks lie between right and wrong.
Lines are in the order of their places and keys in that of the alphabet, and no time is kept by the
compression, so that the same cells are the same bytes; a file whose cells are the same is left as
it is.
"""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unmergeable.bench.field import artefact, index
from unmergeable.checkpoint.small_files import write_over
from unmergeable.errors import InputError

PREFIX, SUFFIX = "results-", ".jsonl.gz"
MOST = 1 << 20  # bytes of a file: it is kept in git
_UNPACKED = 256 << 20
_FORMAT = 1
# What makes two measurements of one place comparable.
SAME = ("base", "tasks", "groups", "quick")

Cell = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Kept:
    """What a file holds.

    Attributes:
        index: see [`index`][unmergeable.bench.field.index], without its cells.
        cells: by place; None where one was planned and is not measured.
    """

    index: Mapping[str, Any]
    cells: Mapping[str, Cell | None]

    @property
    def name(self) -> str:
        """The suite's, with "-quick" after it if the cells are of a quick run."""
        return name_of(self.index["suite"], self.index["quick"])


def name_of(suite: str, quick: bool) -> str:
    """What a run of a suite is called in names of files and on the page."""
    return f"{suite}{index.QUICK}" if quick else suite


def path_of(out: Path, name: str) -> Path:
    """Where a run of a suite is kept."""
    return out / f"{PREFIX}{name}{SUFFIX}"


def names(out: Path) -> list[str]:
    """The runs that a folder holds, in the order of the alphabet."""
    found = (path.name for path in out.glob(f"{PREFIX}*{SUFFIX}"))
    return sorted(name.removeprefix(PREFIX).removesuffix(SUFFIX) for name in found)


def in_cache(cache: Path, suite: str, quick: bool) -> Kept | None:
    """What a cache folder knows of a suite; None if it was never run there."""
    document = index.read(cache, suite, quick)
    if document is None:
        return None
    places = document.pop("cells")
    cells = {where: artefact.read(cache, key) if key else None for where, key in places.items()}
    return Kept(document, cells)


def read(path: Path) -> Kept:
    """A file's cells.

    Raises:
        InputError: no such file, or one that was damaged or written by another version.
    """
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None
    try:
        head, *lines = map(json.loads, _unpacked(packed).decode().splitlines())
        if head.pop("format") != _FORMAT:
            raise InputError(f"{path} was written by another version of this program.")
        cells: dict[str, Cell | None] = dict.fromkeys(head.pop("planned"))
        for line in lines:
            where = line.pop("place")
            cells[where] = _with(line, from_bits)
        return Kept(head, cells)
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zlib.error):
        raise InputError(
            f"{path} is damaged: it holds no cells as this program writes them."
        ) from None


def check_joins(path: Path, document: Mapping[str, Any]) -> None:
    """Refuses to measure cells that could not join those of a file.

    Args:
        path: the file; there need be none.
        document: the suite's index, as far as it is known before anything is measured.

    Raises:
        InputError: the file is damaged, or holds cells of other models or tasks.
    """
    if path.exists():
        _check_same(path, read(path).index, document)


def _check_same(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    for part in SAME:
        if old[part] != new[part]:
            raise InputError(
                f"{path} holds cells of another {part.removesuffix('s')}, so what is measured "
                "here cannot stand in one table with them. Experts that are trained on another "
                "machine are others. Move the file away to begin anew, or write elsewhere (--out)."
            )


def merge(path: Path, new: Kept) -> Kept:
    """Writes cells into a file, beside those that it holds; of one place the new one stays.

    Raises:
        InputError: the file is damaged, holds cells of other models or tasks, or would grow too
            large for a repository; it stays as it is.
    """
    merged = new
    if path.exists():
        old = read(path)
        _check_same(path, old.index, new.index)
        index_ = {**new.index}
        for part in ("defended", "rows", "attacks"):
            index_[part] = {**old.index.get(part, {}), **new.index.get(part, {})}
        measured = {where: cell for where, cell in new.cells.items() if cell is not None}
        merged = Kept(index_, {**new.cells, **old.cells, **measured})
        if _text(old) == _text(merged):
            return old
    packed = gzip.compress(_text(merged).encode(), 9, mtime=0)
    if len(packed) > MOST:
        raise InputError(f"{path} would take {len(packed)} bytes, more than {MOST}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_over(path, packed)
    return merged


def _text(kept: Kept) -> str:
    planned = sorted(where for where, cell in kept.cells.items() if cell is None)
    lines = [{"format": _FORMAT, "planned": planned, **kept.index}]
    lines += [
        {"place": where, **_with(cell, to_bits)}
        for where, cell in sorted(kept.cells.items())
        if cell is not None
    ]
    return "".join(json.dumps(one, sort_keys=True, separators=(",", ":")) + "\n" for one in lines)


def _unpacked(packed: bytes) -> bytes:
    """What a file holds, unless it is made to fill the memory."""
    reader = zlib.decompressobj(31)
    found = reader.decompress(packed, _UNPACKED)
    if not reader.eof:
        raise ValueError("cut short, or too much")
    return found


def _with(cell: Cell, change: Callable[[str], str]) -> dict[str, Any]:
    """A cell with its marks changed."""

    def each(marks: Mapping[str, str]) -> dict[str, str]:
        return {name: change(one) for name, one in marks.items()}

    out = {**cell, "marks": each(cell["marks"])}
    if "singles" in cell:
        out["singles"] = {model: each(rows) for model, rows in cell["singles"].items()}
    return out


def to_bits(marks: str) -> str:
    """An artefact's marks with a bit an item, in base 64: "600:...". Others stay as they are."""
    if marks[:1] not in ("0", "1"):
        return marks
    bits = np.packbits(np.frombuffer(marks.encode(), np.uint8) == ord("1"))
    return f"{len(marks)}:{base64.b64encode(bits.tobytes()).decode()}"


def from_bits(packed: str) -> str:
    """What `to_bits` was given."""
    count, colon, text = packed.partition(":")
    if not colon or not count:
        return packed
    bits = np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), count=int(count))
    return "".join(map(str, bits))
