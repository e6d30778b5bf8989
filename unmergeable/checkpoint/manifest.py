"""`unmergeable.json`: what was done to a protected folder. Nothing in it is secret.

format, version    what this file is
tool               the release that wrote it
defence            its name
settings           its public parameters, enough to draw the same lock again from the key
key                the key's id, which says nothing about the key
architecture       family and model class
lossless           whether unlocking gives the original back bit for bit
weights.original   digest of the original's weights: proof of what an unlock gave back
files              SHA-256 of every file beside this one
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from unmergeable.checkpoint.folder import MANIFEST
from unmergeable.errors import ManifestError

FORMAT = "unmergeable-manifest"
VERSION = 1


@dataclass(frozen=True)
class Manifest:
    """The content of `unmergeable.json`; the module's docstring explains the fields."""

    tool: str
    defence: str
    settings: dict[str, Any]
    key: str
    architecture: dict[str, str]
    lossless: bool
    weights: dict[str, str]
    files: dict[str, str]

    def to_bytes(self) -> bytes:
        """The file's content."""
        document = {"format": FORMAT, "version": VERSION, **asdict(self)}
        return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def read_manifest(folder: Path) -> Manifest:
    """Reads a protected folder's manifest.

    Raises:
        ManifestError: none there, damaged, or of another version.
    """
    path = folder / MANIFEST
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ManifestError(
            f"{folder} has no {MANIFEST}: it is not protected, or the file was left behind."
        ) from None
    except (OSError, ValueError) as error:
        raise ManifestError(f"{path} is damaged: {error}.") from None
    if not isinstance(document, dict) or document.pop("format", None) != FORMAT:
        raise ManifestError(f"{path} is not a manifest of this tool.")
    version = document.pop("version", None)
    if version != VERSION:
        raise ManifestError(f"{path} has version {version!r}; this release reads {VERSION}.")
    kinds = {
        "tool": str, "defence": str, "settings": dict, "key": str, "architecture": dict,
        "lossless": bool, "weights": dict, "files": dict,
    }  # fmt: skip
    for name, kind in kinds.items():
        if not isinstance(document.get(name), kind):
            raise ManifestError(f"{path} is damaged: {name!r} is missing or of the wrong type.")
    if unknown := document.keys() - kinds.keys():
        raise ManifestError(f"{path} is damaged: it has the unknown fields {sorted(unknown)}.")
    return Manifest(**document)
