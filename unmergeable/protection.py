"""Protect and unlock: a model folder in, a model folder out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmergeable.architectures.layout import Layout
from unmergeable.checkpoint.folder import CONFIG, MANIFEST, ModelFolder, open_folder
from unmergeable.checkpoint.header import TensorEntry
from unmergeable.checkpoint.hub import resolve
from unmergeable.checkpoint.manifest import Manifest, read_manifest
from unmergeable.checkpoint.rewrite import Bytes, Progress, rewrite
from unmergeable.checkpoint.staging import Staging
from unmergeable.defences import lock
from unmergeable.errors import InputError, KeyFileError, ManifestError
from unmergeable.gauge.notation import Gauge
from unmergeable.keys import Key, load_key
from unmergeable.version import __version__

DEFENCES = (lock.NAME,)


@dataclass(frozen=True)
class ProtectReport:
    """What `protect` did.

    Attributes:
        out: the protected folder.
        manifest: its manifest.
        bits: entropy drawn from the key per space, in bits.
        left_out: files of the input that may hold weights and were not copied.
    """

    out: Path
    manifest: Manifest
    bits: dict[str, float]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class UnlockReport:
    """What `unlock` did.

    Attributes:
        out: the unlocked folder.
        exact: whether its tensors were proven bit-identical to the original's, by hash. False for
            a general lock, which rounds.
        weights: the digest of its weights.
        left_out: files that were added after protecting, and were not copied.
    """

    out: Path
    exact: bool
    weights: str
    left_out: tuple[str, ...]


def protect(
    model: str | Path,
    out: str | Path,
    key: Key | str | Path,
    *,
    defence: str = lock.NAME,
    settings: Mapping[str, Any] | None = None,
    allow_non_finite: bool = False,
    workers: int | None = None,
    progress: Progress = lambda done: None,
) -> ProtectReport:
    """Writes a protected copy of a model.

    Args:
        model: a model folder, or the id of one on the Hub.
        out: the folder to make; absent or empty.
        key: the owner's, or its file.
        defence: its name.
        settings: the defence's settings by name; see `defences.lock.SETTINGS`.
        allow_non_finite: carry NaN and infinities along instead of refusing them.
        workers: threads; default: the processors at hand.
        progress: called with the number of bytes just finished.

    Raises:
        UnmergeableError: one of its kinds, with what was wrong and what to do. The output is then
            absent; work that is worth it is kept beside it, and the same call goes on from there.
    """
    if defence not in DEFENCES:
        raise InputError(f"no defence {defence!r}; there is {', '.join(DEFENCES)}.")
    key = key if isinstance(key, Key) else load_key(key)
    folder = open_folder(resolve(model))
    if (folder.path / MANIFEST).exists():
        raise InputError(f"{folder.path} is protected already. Unlock it first.")
    layout = Layout.of(folder.config, folder.shapes)
    dtypes = {entry.dtype for entry in folder.tensors.values()}
    chosen = lock.LockSettings.resolve(settings or {}, layout, dtypes)
    draw = lock.gauge(key, chosen)
    about = ["protect", defence, chosen.public(), key.id, allow_non_finite]

    def transform(entry: TensorEntry, data: Bytes) -> Bytes:
        change = layout.tensor_map(entry.name, draw)
        return change.apply(data, entry.shape, entry.dtype, allow_non_finite=allow_non_finite)

    with Staging(out, _fingerprint(folder, about)) as staging:
        made = rewrite(
            folder, staging, transform, hash_files="output", workers=workers, progress=progress
        )
        files = made.files | copy_companions(folder, staging, folder.companions)
        manifest = Manifest(
            tool=f"unmergeable {__version__}",
            defence=defence,
            settings=chosen.public(),
            key=key.id,
            architecture={"family": layout.family, "class": layout.model_class},
            lossless=chosen.kind == "lossless",
            weights={"original": made.weights},
            files=files,
        )
        manifest = manifest.sealed(seal_secret(key))
        staging.write_file(MANIFEST, manifest.to_bytes())
        staging.publish()
    return ProtectReport(staging.out, manifest, chosen.bits(layout), folder.left_out)


def unlock(
    protected: str | Path,
    out: str | Path,
    key: Key | str | Path,
    *,
    workers: int | None = None,
    progress: Progress = lambda done: None,
) -> UnlockReport:
    """Writes the original back from a protected model.

    The result of a lossless lock is compared, by hash, with what the manifest says of the original,
    and is not published if it differs.

    Args:
        protected: as written by `protect`.
        out: the folder to make; absent or empty.
        key: the one it was protected with, or its file.
        workers: threads; default: the processors at hand.
        progress: called with the number of bytes just finished.

    Raises:
        UnmergeableError: one of its kinds; a wrong key and damaged files among them.
    """
    key = key if isinstance(key, Key) else load_key(key)
    folder = open_folder(resolve(protected))
    manifest = read_manifest(folder.path)
    layout = Layout.of(folder.config, folder.shapes)
    draw = locked_gauge(manifest, key, layout, folder)

    def transform(entry: TensorEntry, data: Bytes) -> Bytes:
        change = layout.tensor_map(entry.name, draw).inverse
        return change.apply(data, entry.shape, entry.dtype, allow_non_finite=True)

    companions = tuple(name for name in folder.companions if name in manifest.files)
    about = ["unlock", manifest.weights, manifest.settings, key.id]
    with Staging(out, _fingerprint(folder, about)) as staging:
        made = rewrite(
            folder, staging, transform, hash_files="input", workers=workers, progress=progress
        )
        files = made.files | copy_companions(folder, staging, companions)
        _check_files(folder, manifest, files, staging)
        exact = made.weights == manifest.weights.get("original")
        if manifest.lossless and not exact:
            staging.discard()
            raise ManifestError(
                f"{folder.path}: unlocking gave weights that are not the original's, although key, "
                "manifest and files are intact. Nothing was written. Report this."
            )
        staging.publish()
    added = tuple(name for name in folder.companions if name not in manifest.files)
    return UnlockReport(staging.out, exact, made.weights, folder.left_out + added)


def locked_gauge(manifest: Manifest, key: Key, layout: Layout, folder: ModelFolder) -> Gauge:
    """Draws again the lock that a manifest describes.

    Raises:
        KeyFileError: another key.
        ManifestError: a manifest that was changed since it was sealed, or that this release does
            not know.
    """
    if manifest.key != key.id:
        raise KeyFileError(
            f"{folder.path} was protected with the key {manifest.key}, this is {key.id}."
        )
    if manifest.defence not in DEFENCES:
        raise ManifestError(
            f"{folder.path} was protected with {manifest.defence!r}, which this release does not "
            "know. Update it."
        )
    if not manifest.is_sealed_by(seal_secret(key)):
        raise ManifestError(
            f"{folder.path / MANIFEST} was changed since it was written: its seal does not fit the "
            "key. Restore it from where the model was published."
        )
    return lock.gauge(key, lock.LockSettings.resolve(manifest.settings, layout, ()))


def seal_secret(key: Key) -> bytes:
    """What a key's manifests are sealed with."""
    return key.derive("manifest seal")


def _fingerprint(folder: ModelFolder, about: Any) -> str:
    """Names a piece of work: the same inputs, unchanged, treated the same way."""
    inputs: list[Any] = [folder.config]
    for header in folder.files:
        stat = header.path.stat()
        inputs.append([str(header.path.resolve()), stat.st_size, stat.st_mtime_ns])
    return hashlib.sha256(json.dumps([__version__, about, inputs]).encode()).hexdigest()


def copy_companions(
    folder: ModelFolder, staging: Staging, names: tuple[str, ...]
) -> dict[str, str]:
    """Copies config, tokenizer and cards byte for byte; returns their SHA-256 by name."""
    hashes = {}
    for name in names:
        content = folder.read_companion(name)
        staging.write_file(name, content)
        hashes[name] = hashlib.sha256(content).hexdigest()
    return hashes


def _check_files(
    folder: ModelFolder, manifest: Manifest, files: Mapping[str, str], staging: Staging
) -> None:
    """Compares weights and config with the manifest; cards and the like may be edited."""
    for name in (*(header.path.name for header in folder.files), CONFIG):
        if manifest.files.get(name) != files[name]:
            staging.discard()
            raise ManifestError(
                f"{folder.path / name} is not the file that was protected: its hash is not the "
                "manifest's. It is damaged, or was fine-tuned or converted since. Nothing was "
                "written."
            )
