"""Protect and unlock: a model folder in, a model folder out."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

from unmergeable.architectures.layout import Layout
from unmergeable.checkpoint.companions import check_no_secret, copy_companions
from unmergeable.checkpoint.digest import digest_of, file_digest, headers_digest
from unmergeable.checkpoint.file_comparison import (
    FileComparison,
    is_card,
    listed,
    with_manifest,
)
from unmergeable.checkpoint.folder import CONFIG, MANIFEST, ModelFolder, open_folder
from unmergeable.checkpoint.hub import locate, resolve
from unmergeable.checkpoint.manifest import Link, Manifest, read_manifest
from unmergeable.checkpoint.plan import Plan, fingerprint
from unmergeable.checkpoint.remote import Place, is_url
from unmergeable.checkpoint.remote_staging import staging_for
from unmergeable.checkpoint.rewrite import carry_out
from unmergeable.checkpoint.small_files import is_there
from unmergeable.checkpoint.staging import Output, Staging
from unmergeable.defences import lock
from unmergeable.defences.chain import Chain
from unmergeable.defences.choices import Deciding, opened
from unmergeable.defences.mergebarrier.rebuilt_folder import write_rebuilt
from unmergeable.defences.registry import chain_of
from unmergeable.defences.unlabelled import read_unlabelled
from unmergeable.errors import InputError, KeyFileError, ManifestError
from unmergeable.executors.executor import executor_of
from unmergeable.keys.key import Key, load_key
from unmergeable.progress import Counter, Progress, silent
from unmergeable.protection.card import README, Card, without
from unmergeable.protection.marking import mark_of, marked
from unmergeable.protection.recipe import LockRecipe
from unmergeable.protection.register import LicensedCopy, enter, licensees
from unmergeable.version import __version__

LINE = "line:"  # what the salt of a line begins with, before its name


@dataclass(frozen=True)
class ProtectReport:
    """What `protect` did.

    Attributes:
        out: the protected folder.
        manifest: its manifest.
        bits: entropy drawn from the key, in bits, by defence and space.
        left_out: files of the input that were not copied, as the model does not need them or they
            must not be published; `ModelFolder.reasons` says why.

    Examples:
        >>> report = unmergeable.protect("expert", "released", "owner.key")
        >>> report.left_out
        ()
    """

    out: Place
    manifest: Manifest
    bits: dict[str, dict[str, float]]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class UnlockReport:
    """What `unlock` did.

    Attributes:
        out: the unlocked folder.
        exact: whether its tensors were found bit-identical to the original's, by digest. False for
            a general lock, which rounds, and where that was not checked.
        weights: the digest of its weights.
        left_out: files that were added after protecting or must not be published, and were not
            copied.
        lasting: the defences that no key undoes, such as trained ones; they stay.
        missing: files of the original that decide what it does, such as its tokenizer, and that the
            protected folder has no longer.
        edited: cards and licences that were edited since, and went along, or that are missing.
        checked: whether weights and files are those that were locked. False for a manifest before
            version 7, whose digests this release does not check: only its seal was.

    Examples:
        >>> unmergeable.unlock("locked", "open", "owner.key").missing
        ()
    """

    out: Place
    exact: bool
    weights: str
    left_out: tuple[str, ...]
    lasting: tuple[Link, ...]
    missing: tuple[str, ...] = ()
    edited: tuple[str, ...] = ()
    checked: bool = True


def protect(
    model: str | Place,
    out: str | Path,
    key: Key | str | Path,
    *,
    defence: str = lock.NAME,
    settings: Mapping[str, Any] | None = None,
    base: str | Path | None = None,
    data: str | Path | Sequence[str] | None = None,
    register: str | Path | None = None,
    card: Card | None = None,
    allow_non_finite: bool = False,
    workers: int | str | None = None,
    progress: Progress = silent,
) -> ProtectReport:
    """Writes a protected copy of a model.

    Args:
        model: a model folder, the id of one on the Hub, or an address such as s3://bucket/model.
        out: the folder to make, or an address; absent or empty.
        key: the owner's, or its file.
        defence: its name, or several with plus signs between, applied in that order.
        settings: the defences' settings by name; see `defences.registry.chain_of`.
        base: the public base, for the defences that look at it.
        data: unlabelled texts or paths of images, for the defences that look at activations; or
            where they are, see `defences.unlabelled.read_unlabelled`.
        register: a file that lists for whom copies were marked; made where there is none. The
            licensee joins it before the copy is published. See `protection.register`.
        card: adds to README.md what was done, and this; see `protection.card`. Without it cards are
            copied as they are.
        allow_non_finite: carry NaN and infinities along instead of refusing them.
        workers: threads, or a Ray cluster; see `executors.executor.executor_of`.
        progress: is told how far it is.

    Raises:
        UnmergeableError: one of its kinds, with what was wrong and what to do. The output is then
            absent; work that is worth it is kept beside it, and the same call goes on from there.

    Examples:
        >>> report = unmergeable.protect("expert", "expert-locked", "owner.key")
        >>> [link.defence for link in report.manifest.chain]
        ['lock']
    """
    chosen = chain_of(defence, settings or {})
    key = key if isinstance(key, Key) else load_key(key)
    if chosen.last is not None and is_url(out):
        raise InputError(f"{chosen.last[0].name} writes folders on this machine only, not {out}.")
    if register is not None:
        check_register(register, key, chosen.mark)
    executor = executor_of(workers)
    folder = open_folder(locate(model))
    lasting = _lasting(folder)
    check_no_secret(folder, key.secret)
    base_folder = None if base is None else open_folder(resolve(base))
    layout = Layout.of_folder(folder)
    rebuilt = None
    salt = salt_of(folder, key, chosen.line, [defence, dict(settings or {})])
    with Deciding(folder, base_folder, layout, key, salt) as deciding:
        for one, given in chosen.gauges:
            deciding.add(one, given)
        if chosen.last is not None:
            last, given = chosen.last
            layout.check_plain(f"rebuilt by {last.title}")
            rebuilt = last.rebuild(folder, deciding.subject, given, read_unlabelled(data))
    links = deciding.links
    if chosen.mark is not None:
        links.insert(0, marked(folder, base_folder, layout, key, chosen.mark))
    if rebuilt is not None and chosen.last is not None:
        links.append(
            Link(chosen.last[0].name, rebuilt.settings, lasting=True, measured=rebuilt.measured)
        )
    page = None if card is None else card.written(folder, [*lasting, *links], base)
    about = ["protect", [asdict(link) for link in links], key.id, allow_non_finite]

    advance = Counter(progress, "protecting", folder.tensor_bytes)
    recipe = LockRecipe.of(folder, links, back=False, allow_non_finite=allow_non_finite)
    with staging_for(out, None if rebuilt else fingerprint(folder, about)) as staging:
        weights = {}
        if rebuilt is None:
            plan = Plan.of(folder, recipe, staging)
            made = carry_out(plan, staging, executor, secret=key.secret, advance=advance)
            files = made.files | copy_companions(folder, staging, folder.companions, key.secret)
            weights = {"headers": headers_digest(folder.files)}
            weights |= {"original": made.read} if made.read else {"locked": made.written}
        else:
            assert isinstance(staging, Staging)
            files = write_rebuilt(rebuilt, folder, staging)
            advance(folder.tensor_bytes)
        if page is not None:
            staging.write_file(README, page)
            files[README] = digest_of(page)
        manifest = Manifest(
            tool=f"unmergeable {__version__}",
            chain=(*lasting, *links),
            key=key.id,
            architecture=architecture_of(layout),
            weights=weights,
            files=files,
        )
        manifest = manifest.sealed(seal_secret(key))
        staging.write_file(MANIFEST, manifest.to_bytes())
        if register is not None:
            mark = mark_of(links, key)
            enter(register, key, LicensedCopy(mark.licensee, mark.release))
        staging.publish()
    return ProtectReport(staging.out, manifest, deciding.bits, folder.left_out)


def check_register(register: str | Path, key: Key, mark: Mapping[str, Any] | None) -> None:
    """Refuses a register that the copy could not join, before work starts.

    Args:
        register: the file.
        key: the owner's.
        mark: the mark's settings; None for no mark.

    Raises:
        InputError: a copy for nobody; a place that is no register, or where none can be made.
        KeyFileError: a register of another key.
    """
    if mark is None or not mark.get("licensee"):
        raise InputError(
            "a register lists licensees, whose copies are marked: give --defence mark (or a chain "
            "that begins with it) and --licensee, or leave --register away."
        )
    if is_there(Path(register)):
        licensees(register, key)
    elif not Path(register).parent.is_dir():
        raise InputError(f"{register}: there is no such folder to make the register in.")


def salt_of(folder: ModelFolder, key: Key, line: str, about: Any) -> str:
    """What tells a lock's draws from those of all other locks of its key.

    It follows from the input and what is done to it, so that a run which was killed goes on with
    the same lock. Nobody without the key can tell which input it was. Where nothing tells an input
    from others, no run goes on, and the salt is drawn at random.

    Args:
        folder: the model to lock.
        key: the owner's.
        line: the line it belongs to; all models of a line have one salt.
        about: the defences and their settings, as JSON.
    """
    if line:
        return f"{LINE}{line}"
    work = fingerprint(folder, about)
    return secrets.token_hex(16) if work is None else key.derive(f"salt of {work}", 16).hex()


def _lasting(folder: ModelFolder) -> tuple[Link, ...]:
    """The defences that a model went through already, and that no key undoes.

    Raises:
        InputError: a key protects it already.
    """
    if not is_there(folder.path / MANIFEST):
        return ()
    manifest = read_manifest(folder.path)
    if manifest.reversible:
        raise InputError(
            f"{folder.path} is protected already, with {manifest.title}. Unlock it first, and give "
            "several defences at once as --defence A+B."
        )
    return manifest.lasting


def unlock(
    protected: str | Place,
    out: str | Path,
    key: Key | str | Path,
    *,
    workers: int | str | None = None,
    progress: Progress = silent,
) -> UnlockReport:
    """Writes the original back from a protected model.

    The weights are compared, by digest, with what the manifest says of them: of the original, or,
    where the lock rounds, of the locked model. Nothing is published if they differ, nor if a
    config, tokenizer, template or code is not what was locked; such files may be missing, which the
    report says. Of a manifest before version 7 the seal alone is checked, which it says, too.

    Args:
        protected: as written by `protect`; a folder, an id or an address.
        out: the folder to make, or an address; absent or empty.
        key: the one it was protected with, or its file.
        workers: threads, or a Ray cluster; see `executors.executor.executor_of`.
        progress: is told how far it is.

    Raises:
        UnmergeableError: one of its kinds; a wrong key and damaged files among them.

    Examples:
        >>> unmergeable.unlock("locked", "unlocked", "owner.key").exact
        True
    """
    key = key if isinstance(key, Key) else load_key(key)
    executor = executor_of(workers)
    folder = open_folder(locate(protected))
    manifest = read_manifest(folder.path)
    reversible(manifest, folder)  # before the architecture, which may be one that nobody declares
    layout = Layout.of_lock(folder.config, folder.shapes)
    locked_chain(manifest, key, layout, folder)  # what does not fit is refused before work starts
    recipe = LockRecipe.of(folder, manifest.reversible, back=True, allow_non_finite=True)
    files_found = with_manifest(folder, manifest)
    check_companions(folder, files_found)
    check_headers(folder, manifest)
    chosen = folder.choose(also=manifest.files)  # an earlier release may have copied more
    companions = tuple(name for name in chosen.travel if name in manifest.files)
    about = ["unlock", manifest.seal, key.id]
    advance = Counter(progress, "unlocking", folder.tensor_bytes)
    with staging_for(out, fingerprint(folder, about)) as staging:
        plan = Plan.of(folder, recipe, staging)
        made = carry_out(plan, staging, executor, secret=key.secret, advance=advance)
        copied = _copy_back(folder, staging, companions, key.secret)
        try:
            if manifest.checkable:
                check_copied(folder, manifest, copied)
            exact = check_weights(folder, manifest, made.read, made.written)
        except ManifestError:
            staging.discard()
            raise
        if manifest.lasting:
            record(staging, manifest.lasting, manifest.architecture)
        staging.publish()
    added = tuple(name for name in chosen.travel if name not in manifest.files)
    left_out = (*chosen.left_out, *added)
    return UnlockReport(
        staging.out,
        exact,
        made.written,
        left_out,
        manifest.lasting,
        files_found.missing,
        files_found.cards,
        manifest.checkable,
    )


def _copy_back(
    folder: ModelFolder, staging: Output, names: Sequence[str], secret: bytes
) -> dict[str, str]:
    """As `copy_companions`, and the card without what `protect` added to it."""
    content = folder.read_companion(README) if README in names else b""
    page = without(content)
    if page is None:  # there was no card
        names = [name for name in names if name != README]
    copied = copy_companions(folder, staging, names, secret)
    if page is not None and page != content:
        staging.write_file(README, page)
    return copied


def record(staging: Output, lasting: Sequence[Link], architecture: Mapping[str, str]) -> None:
    """Writes the manifest of a model that went through defences which no key undoes."""
    manifest = Manifest(
        tool=f"unmergeable {__version__}",
        chain=tuple(lasting),
        key="",
        architecture=dict(architecture),
        weights={},
        files={},
    )
    staging.write_file(MANIFEST, manifest.to_bytes())


def architecture_of(layout: Layout) -> dict[str, str]:
    """Family and class, as manifests name them."""
    return {"family": layout.family, "class": layout.model_class}


def reversible(manifest: Manifest, folder: ModelFolder) -> tuple[Link, ...]:
    """The defences of a folder that its key undoes.

    Raises:
        ManifestError: there are none, or one that no key undoes came after them.
    """
    if manifest.reversible and not manifest.chain[-1].lasting:
        return manifest.reversible
    raise ManifestError(
        f"{folder.path} went through {manifest.title}; its last defence trained the weights or "
        "changed the architecture, and no key undoes that. Keep the model from before it."
    )


def locked_chain(manifest: Manifest, key: Key, layout: Layout, folder: ModelFolder) -> Chain:
    """Draws again what a manifest describes.

    Raises:
        KeyFileError: another key.
        ManifestError: a manifest that was changed since it was sealed, that this release does not
            know, or that has nothing that a key undoes.
    """
    links = reversible(manifest, folder)
    if manifest.key != key.id:
        raise KeyFileError(
            f"{folder.path} was protected with the key {manifest.key}, this is {key.id}."
        )
    if not manifest.is_sealed_by(seal_secret(key)):
        raise ManifestError(
            f"{folder.path / MANIFEST} was changed since it was written: its seal does not fit the "
            "key. Restore it from where the model was published."
        )
    return opened(links, key, layout)


def seal_secret(key: Key) -> bytes:
    """What a key's manifests are sealed with."""
    return key.derive("manifest seal")


def check_companions(folder: ModelFolder, found: FileComparison) -> None:
    """Refuses files that decide what a model does and are not those that were locked with it.

    Raises:
        ManifestError: names them.
    """
    if CONFIG in found.changed:
        raise not_protected(folder, CONFIG)
    if found.changed:
        gone = f" Missing besides: {listed(found.missing)}." if found.missing else ""
        raise ManifestError(
            f"files of {folder.path} are not those that were locked: {listed(found.changed)}.{gone}"
            " Nothing was written. Restore them from where the model was published, or delete them "
            "to unlock without them."
        )


def check_copied(folder: ModelFolder, manifest: Manifest, copied: Mapping[str, str]) -> None:
    """Compares what was copied with the manifest, once more; cards and the like may be edited.

    Raises:
        ManifestError: names the first file that changed meanwhile.
    """
    for name in (CONFIG, *(name for name in copied if not is_card(name))):
        if manifest.files.get(name) != copied.get(name):
            raise not_protected(folder, name)


def check_headers(folder: ModelFolder, manifest: Manifest) -> None:
    """Compares the weight files' headers with the manifest, if its digests are checkable.

    Raises:
        ManifestError: names a weight file that is not the one that was protected.
    """
    if manifest.checkable and manifest.weights.get("headers") != headers_digest(folder.files):
        _refuse_weights(folder, manifest)


def check_weights(folder: ModelFolder, manifest: Manifest, read: str, written: str) -> bool:
    """Compares weights that a key gave back with the manifest, if its digests are checkable.

    Args:
        folder: the protected one.
        manifest: its own, sealed by the key.
        read: the digest of the locked weights; of no use for a lossless lock.
        written: the digest of the weights that came back.

    Returns:
        Whether they are the original's, bit for bit.

    Raises:
        ManifestError: they are not what they should be; names the weight file, if one was changed.
    """
    if not manifest.checkable:
        return False
    if manifest.lossless:
        if manifest.weights.get("original") != written:
            _refuse_weights(folder, manifest)
        return True
    if manifest.weights.get("locked") != read:
        _refuse_weights(folder, manifest)
    return False


def _refuse_weights(folder: ModelFolder, manifest: Manifest) -> NoReturn:
    """Says why weights are not what they should be; their files are read again to tell.

    Raises:
        ManifestError: in any case.
    """
    for header in folder.files:
        if file_digest(header.path) != manifest.files.get(header.path.name):
            raise not_protected(folder, header.path.name)
    raise ManifestError(
        f"{folder.path}: unlocking gave weights that are not the original's, although key, "
        "manifest and files are intact. Nothing was written. Report this."
    )


def not_protected(folder: ModelFolder, name: str) -> ManifestError:
    """What to raise for a file that is not the one that was protected."""
    return ManifestError(
        f"{folder.path / name} is not the file that was protected: its digest is not the "
        "manifest's. It is damaged, or was fine-tuned or converted since. Nothing was "
        "written."
    )
