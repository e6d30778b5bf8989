"""Files of a folder: which of them are no longer what they were, or not what others are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from unmergeable.checkpoint.companions import ATTRIBUTES, is_document, is_loaded
from unmergeable.checkpoint.contents import PICTURES
from unmergeable.checkpoint.digest import digest_of, file_digest
from unmergeable.checkpoint.folder import INDEX, MANIFEST, ModelFolder
from unmergeable.checkpoint.listing import entries_of
from unmergeable.checkpoint.manifest import Manifest
from unmergeable.checkpoint.remote import Place
from unmergeable.errors import InputError, clip

_SHOWN, _LETTERS = 5, 80


@dataclass(frozen=True)
class FileComparison:
    """Files, compared by name and content.

    Attributes:
        compared: how many were looked at.
        changed: those that decide what a model does, and have other content.
        missing: those of them that are not there.
        added: those of them that should not be there.
        cards: texts and pictures for people that were changed or are missing.
    """

    compared: int
    changed: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    cards: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        """Whether all files that decide are the same."""
        return not (self.changed or self.missing or self.added)

    def sentences(self, where: str, than: str) -> list[str]:
        """What differs, for people.

        Args:
            where: the folder that was looked at.
            than: what its files should be.
        """
        said = (
            (self.changed, f"not what {than}"),
            (self.missing, "missing"),
            (self.added, f"there, and not {than}"),
            (self.cards, "edited or missing (cards and licences, which decide nothing)"),
        )
        return [
            f"files of {where} that are {what}: {listed(names)}" for names, what in said if names
        ]


def with_manifest(folder: ModelFolder, manifest: Manifest) -> FileComparison:
    """Compares the files beside a protected folder's weights with what its manifest says of them.

    Args:
        folder: the protected one.
        manifest: its own. If its digests are not checkable, only missing files are found.
    """
    files, weights = manifest.files, {header.path.name for header in folder.files}
    missing = {name for name in files if name not in weights}
    chosen = folder.choose(also=files)
    missing -= {*chosen.travel, *chosen.left_out}
    if not manifest.checkable:
        return _sorted(0, (), missing, ())
    found = {name: _digest(folder, name) for name in chosen.travel if name in files}
    wanted = {name: digest for name, digest in files.items() if name not in weights}
    changed = (n for n, digest in wanted.items() if n not in missing and found.get(n) != digest)
    return _sorted(len(wanted), changed, missing, ())


def all_with_manifest(
    folder: Place, files: Mapping[str, str], advance: Callable[[int], object]
) -> tuple[FileComparison, tuple[str, ...]]:
    """Compares every file of a folder, weights among them, with a manifest's digests.

    Nothing of them is understood, so that no damage is in the way of naming what is damaged.

    Args:
        folder: the protected one.
        files: the manifest's digests by name.
        advance: called with the number of bytes just read.

    Returns:
        The comparison; and the names of files that the manifest does not list, and that no model is
        loaded from.

    Raises:
        InputError: a file that cannot be read.
    """
    entries = {entry.name: entry for entry in entries_of(folder) if entry.name != MANIFEST}
    there = {name for name, entry in entries.items() if not entry.odd}
    changed = set()
    for name in files.keys() & there:
        try:
            digest = file_digest(folder / name, advance)
        except OSError as error:
            raise InputError(f"cannot read {folder / name}: {error.strerror}.") from None
        if digest != files[name]:
            changed.add(name)
    more = entries.keys() - files.keys()
    added = {name for name in more if is_loaded(name)}
    unlisted = sorted(name for name in more - added if name in there and not is_card(name))
    return _sorted(len(files), changed, files.keys() - there, added), tuple(unlisted)


def with_folder(
    original: ModelFolder, other: ModelFolder, rebuilt: Collection[str] = ()
) -> FileComparison:
    """Compares a folder's files with those that it should be copies of.

    Args:
        original: what they were copied from.
        other: where they are now.
        rebuilt: names of files that a defence wrote again, and that cannot be compared.
    """
    skip = {*rebuilt, INDEX}  # the index says where weights are, and opening it checked that
    ours, theirs = set(original.companions) - skip, set(other.companions) - skip
    changed = (n for n in ours & theirs if _digest(original, n) != _digest(other, n))
    return _sorted(len(ours | theirs), changed, ours - theirs, theirs - ours)


def listed(names: Collection[str]) -> str:
    """Some names, and how many more there are; bounded whatever they are."""
    shown = ", ".join(clip(name, _LETTERS) for name in list(names)[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


def is_card(name: str) -> bool:
    """Whether a file is for people alone; all others decide what a model does."""
    path = PurePosixPath(name)
    return name == ATTRIBUTES or is_document(path) or path.suffix.lower() in PICTURES


def _digest(folder: ModelFolder, name: str) -> str:
    return digest_of(folder.read_companion(name))


def _sorted(
    compared: int, changed: Iterable[str], missing: Iterable[str], added: Iterable[str]
) -> FileComparison:
    """Sets cards apart; one that was added is of no interest."""
    parts = [sorted(changed), sorted(missing), sorted(added)]
    cards = tuple(name for part in parts[:2] for name in part if is_card(name))
    changed, missing, added = ([name for name in part if not is_card(name)] for part in parts)
    return FileComparison(compared, tuple(changed), tuple(missing), tuple(added), cards)
