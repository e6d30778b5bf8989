"""Relock: from one key to another, without the open weights on any disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unmergeable.architectures.layout import Layout
from unmergeable.checkpoint.companions import check_no_secret, copy_companions
from unmergeable.checkpoint.digest import headers_digest
from unmergeable.checkpoint.file_comparison import with_manifest
from unmergeable.checkpoint.folder import MANIFEST, open_folder
from unmergeable.checkpoint.hub import locate
from unmergeable.checkpoint.manifest import Link, Manifest, read_manifest
from unmergeable.checkpoint.plan import Plan, fingerprint
from unmergeable.checkpoint.remote import Place
from unmergeable.checkpoint.remote_staging import staging_for
from unmergeable.checkpoint.rewrite import carry_out
from unmergeable.defences.choices import redrawn
from unmergeable.errors import KeyFileError, ManifestError
from unmergeable.executors.executor import executor_of
from unmergeable.keys.key import Key, load_key
from unmergeable.progress import Counter, Progress, silent
from unmergeable.protection.protect import (
    LINE,
    check_companions,
    check_copied,
    check_headers,
    check_weights,
    locked_chain,
    reversible,
    salt_of,
    seal_secret,
)
from unmergeable.protection.recipe import RelockRecipe
from unmergeable.version import __version__


@dataclass(frozen=True)
class RelockReport:
    """What `relock` did.

    Attributes:
        out: the folder under the new key.
        manifest: its manifest.
        lasting: the defences that no key undoes; they stay as they are. A mark is still the old
            key's, which `trace` needs.
        left_out: files that were added after protecting or must not be published, and were not
            copied.
        missing: files of the original that decide what it does, and that the locked folder has no
            longer.
        edited: cards and licences that were edited since, and went along, or that are missing.

    Examples:
        >>> new = unmergeable.keygen("next.key")
        >>> report = unmergeable.relock("locked", "relocked", "owner.key", new)
        >>> report.manifest.key == new.id
        True
    """

    out: Place
    manifest: Manifest
    lasting: tuple[Link, ...]
    left_out: tuple[str, ...]
    missing: tuple[str, ...] = ()
    edited: tuple[str, ...] = ()


def relock(
    locked: str | Place,
    out: str | Path,
    key: Key | str | Path,
    new_key: Key | str | Path,
    *,
    workers: int | str | None = None,
    progress: Progress = silent,
) -> RelockReport:
    """Moves a locked model from one key to another.

    The defences and their settings stay, and are drawn again from the new key with a new salt; a
    line keeps its name. Tensor by tensor, in memory, the old lock is undone and the new one
    applied, so that the result is what unlocking and protecting again would give. A lossless lock
    stays exact: unlocking with the new key gives the original's bytes. What rounds, rounds again.

    The weights and files are held to the old manifest as `unlock` holds them, before anything is
    published. Copies of the old release that others have still open with the old key.

    Args:
        locked: as written by `protect`; a folder, an id or an address.
        out: the folder to make, or an address; absent or empty.
        key: the one that the model was locked with, or its file.
        new_key: the one to lock it with, or its file.
        workers: threads, or a Ray cluster; see `executors.executor.executor_of`.
        progress: is told how far it is.

    Raises:
        UnmergeableError: one of its kinds; a wrong key, twice the same key, damaged files and a
            model whose last defence no key undoes are among them.

    Examples:
        >>> old, new = unmergeable.load_key("owner.key"), unmergeable.Key.generate()
        >>> report = unmergeable.relock("locked", "moved", old, new)
        >>> unmergeable.unlock("moved", "opened", new).exact
        True
    """
    key = key if isinstance(key, Key) else load_key(key)
    new_key = new_key if isinstance(new_key, Key) else load_key(new_key)
    if key.id == new_key.id:
        raise KeyFileError(
            f"the new key is the old one, {key.id}: anyone who has it could open the result. "
            "Make another with `unmergeable keygen`."
        )
    executor = executor_of(workers)
    folder = open_folder(locate(locked))
    manifest = read_manifest(folder.path)
    old = reversible(manifest, folder)  # before the architecture, which may be one nobody declares
    locked_chain(manifest, key, Layout.of_lock(folder.config, folder.shapes), folder)
    if not manifest.checkable:
        raise ManifestError(
            f"{folder.path} has a manifest of version {manifest.version}, whose digests this "
            "release cannot check, and a new one would vouch for them. Unlock it, and protect the "
            "original again."
        )
    for one in (key, new_key):
        check_no_secret(folder, one.secret)
    found = with_manifest(folder, manifest)
    check_companions(folder, found)
    check_headers(folder, manifest)
    about = ["relock", manifest.seal, key.id, new_key.id]
    _, _, line = old[0].salt.partition(LINE)  # all defences of a chain have one salt
    salt = salt_of(folder, new_key, line, about)
    new = redrawn(old, key, new_key, salt)
    chosen = folder.choose(also=manifest.files)  # an earlier release may have copied more
    companions = tuple(name for name in chosen.travel if name in manifest.files)
    advance = Counter(progress, "relocking", folder.tensor_bytes)
    with staging_for(out, fingerprint(folder, about)) as staging:
        plan = Plan.of(folder, RelockRecipe.of(folder, old, new), staging)
        secret = key.secret + new_key.secret
        made = carry_out(plan, staging, executor, secret=secret, advance=advance)
        copied = copy_companions(folder, staging, companions, new_key.secret)
        try:
            check_copied(folder, manifest, copied)
            # What was read is digested as the original, or, where the lock rounds, as it is locked.
            check_weights(folder, manifest, made.read, made.read)
        except ManifestError:
            staging.discard()
            raise
        weights = {"headers": headers_digest(folder.files)}
        weights |= {"original": made.read} if manifest.lossless else {"locked": made.written}
        drawn = iter(new)
        relocked = Manifest(
            tool=f"unmergeable {__version__}",
            chain=tuple(link if link.lasting else next(drawn) for link in manifest.chain),
            key=new_key.id,
            architecture=manifest.architecture,
            weights=weights,
            files=made.files | copied,
        ).sealed(seal_secret(new_key))
        staging.write_file(MANIFEST, relocked.to_bytes())
        staging.publish()
    added = tuple(name for name in chosen.travel if name not in manifest.files)
    return RelockReport(
        staging.out,
        relocked,
        manifest.lasting,
        (*chosen.left_out, *added),
        found.missing,
        found.cards,
    )
