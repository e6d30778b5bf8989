"""Verify files: whether a folder holds what its manifest lists, which anyone can ask."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unmergeable.checkpoint.file_comparison import FileComparison, all_with_manifest
from unmergeable.checkpoint.folder import MANIFEST
from unmergeable.checkpoint.hub import locate
from unmergeable.checkpoint.listing import entries_of
from unmergeable.checkpoint.manifest import read_manifest
from unmergeable.checkpoint.remote import Place
from unmergeable.errors import KeyFileError, ManifestError
from unmergeable.keys.key import Key, load_key
from unmergeable.progress import Counter, Progress, silent
from unmergeable.protection.protect import seal_secret


@dataclass(frozen=True)
class FilesReport:
    """What `verify_files` found.

    Attributes:
        files: the folder's files against the manifest's digests.
        unlisted: files that the manifest does not list, and that no model is loaded from.
        key: the id of the key that the manifest says it is of.
        sealed: whether the manifest is as the owner of the key sealed it; None without the key,
            when nothing shows who wrote it.

    Examples:
        >>> report = unmergeable.verify_files("locked")
        >>> report.same, report.sealed
        (True, None)
    """

    files: FileComparison
    unlisted: tuple[str, ...]
    key: str
    sealed: bool | None = None

    @property
    def same(self) -> bool:
        """The verdict."""
        return self.files.same and self.sealed is not False


def verify_files(
    folder: str | Place,
    *,
    key: Key | str | Path | None = None,
    progress: Progress = silent,
) -> FilesReport:
    """Compares all files of a protected folder with the digests in its manifest.

    That finds damage, and files of another release. It does not show who wrote them: anyone who
    changes files can rewrite the manifest, except for its seal, which needs the owner's key.

    Args:
        folder: as written by `protect`; a folder, an id or an address.
        key: the owner's, or its file; checks the seal, too.
        progress: is told how far it is.

    Raises:
        UnmergeableError: no manifest, or one that lists nothing or has digests of an older version;
            another key; a file that cannot be read.

    Examples:
        >>> unmergeable.verify_files("locked", key="owner.key").sealed
        True
    """
    key = key if isinstance(key, Key | None) else load_key(key)
    place = locate(folder)
    manifest = read_manifest(place)
    if not manifest.checkable:
        raise ManifestError(
            f"{place / MANIFEST} has version {manifest.version}: only the owner of the key could "
            "check its digests, and this release does not. Protect the original again for digests "
            "that anyone can check."
        )
    if not manifest.files:
        raise ManifestError(f"{place / MANIFEST} lists no files, so there is nothing to check.")
    if key is not None and key.id != manifest.key:
        raise KeyFileError(f"{place} was protected with the key {manifest.key}, this is {key.id}.")
    sealed = None if key is None else manifest.is_sealed_by(seal_secret(key))
    size = sum(entry.size for entry in entries_of(place) if entry.name in manifest.files)
    advance = Counter(progress, "reading", size)
    files, unlisted = all_with_manifest(place, manifest.files, advance)
    return FilesReport(files, unlisted, manifest.key, sealed)
