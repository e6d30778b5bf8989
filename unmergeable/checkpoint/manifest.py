"""`unmergeable.json`: what was done to a protected folder. Nothing in it is secret.

- `format`, `version`: what this file is.
- `tool`: the release that wrote it.
- `defence`, `settings`: enough to draw the same lock again from the key.
- `key`: the key's id, which says nothing about the key.
- `architecture`: family and model class.
- `lossless`: whether unlocking gives the original back bit for bit.
- `weights.original`: digest of the original's weights, which proves what an unlock gave back.
- `files`: SHA-256 of every file beside this one.
- `seal`: HMAC-SHA256 of all the above under a secret of the key; its owner notices any change.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import asdict, dataclass, replace
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
    seal: str = ""

    def to_bytes(self) -> bytes:
        """The file's content."""
        document = {"format": FORMAT, "version": VERSION, **asdict(self)}
        return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()

    def sealed(self, secret: bytes) -> Manifest:
        """The same manifest with the seal that this secret makes."""
        content = json.dumps(asdict(replace(self, seal="")), sort_keys=True).encode()
        return replace(self, seal=hmac.new(secret, content, hashlib.sha256).hexdigest())

    def is_sealed_by(self, secret: bytes) -> bool:
        """Whether nothing was changed since it was sealed with this secret."""
        return hmac.compare_digest(self.seal.encode(), self.sealed(secret).seal.encode())


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
    except (OSError, ValueError, RecursionError) as error:
        raise ManifestError(f"{path} is damaged: {error}.") from None
    if not isinstance(document, dict) or document.pop("format", None) != FORMAT:
        raise ManifestError(f"{path} is not a manifest of this tool.")
    version = document.pop("version", None)
    if version != VERSION:
        raise ManifestError(f"{path} has version {version!r}; this release reads {VERSION}.")
    kinds = {
        "tool": str, "defence": str, "settings": dict, "key": str, "architecture": dict,
        "lossless": bool, "weights": dict, "files": dict, "seal": str,
    }  # fmt: skip
    for name, kind in kinds.items():
        if not isinstance(document.get(name), kind):
            raise ManifestError(f"{path} is damaged: {name!r} is missing or of the wrong type.")
    if unknown := document.keys() - kinds.keys():
        raise ManifestError(f"{path} is damaged: it has the unknown fields {sorted(unknown)}.")
    return Manifest(**document)
