"""`unmergeable.json`: what was done to a protected folder. Nothing in it is secret.

- `format`, `version`: what this file is.
- `tool`: the release that wrote it.
- `chain`: the defences that the model went through, the first one first. Each has its name, its
  public `settings`, whether it is `lossless`, and what was `measured`. `salt` tells its draws from
  those of every other lock of the key; a line of models has one in common. `secret` is what key and
  salt alone do not give, encrypted under them. A `lasting` one trained the weights or changed the
  architecture: no key undoes it.
- `key`: the key's id, which says nothing about the key; empty while no defence has used one.
- `architecture`: family and model class.
- `files`: the BLAKE3 digest of every file beside this one, as `b3sum` prints it. Anyone can check
  them, with `unmergeable verify --files` or without; and anyone who changes files can rewrite them.
- `weights`: what `unlock` holds its work to. `original` is the digest of the weights before the
  first defence that the key undoes; where one of those rounds, `locked` stands in its place, the
  digest of the weights after the last. `headers` is the digest of the weight files' headers.
- `seal`: HMAC-SHA256 of all the above, `version` included, under a secret of the key. It alone
  shows who wrote this file, and to the key's owner alone.

All digests are BLAKE3; `checkpoint.digest` says of what those of weights and of headers are. In
versions 5 and 6 they were others, which this release does not check. It reads such a manifest to
unlock what it describes: its seal holds, and `unlock` says that nothing shows whether the files are
those that were locked.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from unmergeable.checkpoint.folder import MANIFEST
from unmergeable.checkpoint.remote import Place
from unmergeable.checkpoint.small_files import is_there, read_json
from unmergeable.errors import InputError, ManifestError, clip, quoted

FORMAT = "unmergeable-manifest"
VERSION = 7
# Version 6 has other digests, which nobody but the key's owner could check; 5 has no salts either.
READABLE = (5, 6, 7)


@dataclass(frozen=True)
class Link:
    """One defence of a chain; the module's docstring explains the fields."""

    defence: str
    settings: dict[str, Any]
    lossless: bool = False
    lasting: bool = False
    secret: str = ""
    measured: dict[str, Any] = field(default_factory=dict)
    salt: str = ""


@dataclass(frozen=True)
class Manifest:
    """The content of `unmergeable.json`; the module's docstring explains the fields."""

    tool: str
    chain: tuple[Link, ...]
    key: str
    architecture: dict[str, str]
    weights: dict[str, str]
    files: dict[str, str]
    seal: str = ""
    version: int = VERSION

    @property
    def checkable(self) -> bool:
        """Whether its digests are such as this release checks."""
        return self.version >= 7

    @property
    def lasting(self) -> tuple[Link, ...]:
        """The defences that no key undoes."""
        return tuple(link for link in self.chain if link.lasting)

    @property
    def reversible(self) -> tuple[Link, ...]:
        """The defences that the key undoes."""
        return tuple(link for link in self.chain if not link.lasting)

    @property
    def lossless(self) -> bool:
        """Whether the key gives back, bit for bit, what was there before its first defence."""
        return all(link.lossless for link in self.reversible)

    @property
    def title(self) -> str:
        """The chain's names, with plus signs between."""
        return "+".join(link.defence for link in self.chain)

    def to_bytes(self) -> bytes:
        """The file's content."""
        document = {"format": FORMAT, "version": self.version, **self.to_dict()}
        return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()

    def to_dict(self) -> dict[str, Any]:
        """All fields but the version, for JSON; a link without a salt has none, as in version 5."""
        document = asdict(self)
        del document["version"]
        for link in document["chain"]:
            if not link["salt"]:
                del link["salt"]
        return document

    def sealed(self, secret: bytes) -> Manifest:
        """The same manifest with the seal that this secret makes."""
        document = replace(self, seal="").to_dict()
        if self.checkable:  # else read as an older one, whose digests are not checked
            document["version"] = self.version
        content = json.dumps(document, sort_keys=True).encode()
        return replace(self, seal=hmac.new(secret, content, hashlib.sha256).hexdigest())

    def is_sealed_by(self, secret: bytes) -> bool:
        """Whether nothing was changed since it was sealed with this secret."""
        seal = self.seal.encode("utf-8", "surrogatepass")  # it may be any text
        return hmac.compare_digest(seal, self.sealed(secret).seal.encode())


def read_manifest(folder: Place) -> Manifest:
    """Reads a protected folder's manifest.

    Raises:
        ManifestError: none there, damaged, or of another version.
    """
    path = folder / MANIFEST
    if not is_there(path):
        raise ManifestError(
            f"{folder} has no {MANIFEST}: it is not protected, or the file was left behind."
        )
    return manifest_at(path)


def manifest_at(path: Place) -> Manifest:
    """Reads a manifest that lies somewhere, under any name.

    Raises:
        ManifestError: none there, damaged, or of another version.
    """
    try:
        document = read_json(path)
    except InputError as error:
        raise ManifestError(f"{path} is damaged: {error}") from None
    if not isinstance(document, dict) or document.pop("format", None) != FORMAT:
        raise ManifestError(f"{path} is not a manifest of this tool.")
    version = document.pop("version", None)
    if version not in READABLE:
        known = f"{READABLE[0]} to {READABLE[-1]}"
        raise ManifestError(f"{path} has version {quoted(version)}; this release reads {known}.")
    _check(document, _FIELDS, f"{path} is damaged:")
    for link in document["chain"]:
        if isinstance(link, dict):
            link.setdefault("salt", "")
        _check(link, _LINK_FIELDS, f"{path} is damaged: in a link of its chain,")
    chain = tuple(Link(**link) for link in document["chain"])
    if not chain:
        raise ManifestError(f"{path} is damaged: its chain is empty.")
    return Manifest(**{**document, "chain": chain, "version": version})


_FIELDS = {
    "tool": str, "chain": list, "key": str, "architecture": dict, "weights": dict, "files": dict,
    "seal": str,
}  # fmt: skip
_LINK_FIELDS = {
    "defence": str, "settings": dict, "lossless": bool, "lasting": bool, "secret": str,
    "measured": dict, "salt": str,
}  # fmt: skip


def _check(document: Any, kinds: Mapping[str, type], where: str) -> None:
    """Sees that exactly these fields are there, each of its type."""
    if not isinstance(document, dict):
        raise ManifestError(f"{where} {quoted(document)} is not an object.")
    for name, kind in kinds.items():
        if not isinstance(document.get(name), kind):
            raise ManifestError(f"{where} {name!r} is missing or of the wrong type.")
    if unknown := document.keys() - kinds.keys():
        raise ManifestError(f"{where} it has the unknown fields {clip(sorted(unknown))}.")
