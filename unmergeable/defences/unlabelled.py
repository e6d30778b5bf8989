"""Unlabelled data as users have them: a text file, a JSONL file, or a folder of images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from unmergeable.errors import InputError

_IMAGES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".ppm", ".pgm"}


def read_unlabelled(data: str | Path | Sequence[str] | None) -> list[str]:
    """Texts, or paths of images.

    Args:
        data: a file with one text a line; a .jsonl file with a "text" or a "prompt" in each line; a
            folder of images, at any depth; or the texts or paths themselves. None for no data.

    Raises:
        InputError: names the file, and the line that is wrong.
    """
    if data is None:
        return []
    if not isinstance(data, str | Path):
        return list(data)
    path = Path(data)
    if path.is_dir():
        images = (file for file in sorted(path.rglob("*")) if file.suffix.lower() in _IMAGES)
        found = [str(file) for file in images]
    else:
        try:
            lines = [line for line in path.read_text("utf-8").splitlines() if line.strip()]
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read the data in {path}: {error}.") from None
        jsonl = path.suffix == ".jsonl"
        found = [_text(path, n, line) for n, line in enumerate(lines, 1)] if jsonl else lines
    if not found:
        raise InputError(f"{path} holds no text and no image.")
    return found


def _text(path: Path, number: int, line: str) -> str:
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise InputError(f"{path}, line {number}: not JSON: {error}.") from None
    for name in ("text", "prompt"):
        if isinstance(fields, dict) and isinstance(fields.get(name), str):
            return str(fields[name])
    raise InputError(f'{path}, line {number}: neither "text" nor "prompt".')
