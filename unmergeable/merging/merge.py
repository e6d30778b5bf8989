"""Merges model folders tensor by tensor; under a key, inside the lock's coordinates."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unmergeable.architectures.layout import Layout
from unmergeable.architectures.quantised import halves, quantised
from unmergeable.checkpoint.companions import copy_companions
from unmergeable.checkpoint.digest import digest_of, headers_digest, weights_digest
from unmergeable.checkpoint.folder import MANIFEST, ModelFolder, check_same_tensors, open_folder
from unmergeable.checkpoint.header import TensorEntry
from unmergeable.checkpoint.hub import locate
from unmergeable.checkpoint.manifest import VERSION, Manifest, read_manifest
from unmergeable.checkpoint.reader import TensorReader
from unmergeable.checkpoint.remote import Place
from unmergeable.checkpoint.remote_staging import staging_for
from unmergeable.checkpoint.rewrite import rewrite
from unmergeable.checkpoint.small_files import is_there
from unmergeable.defences.chain import Chain
from unmergeable.errors import InputError, UnsupportedError
from unmergeable.gauge.floats import FORMATS, ROUNDABLE, check_finite
from unmergeable.gauge.memory import Bytes
from unmergeable.gauge.tensor_chain import TensorChain
from unmergeable.keys.key import Key, load_key
from unmergeable.merging import in_memory, mergekit_bridge
from unmergeable.merging.agreement import check_agreement
from unmergeable.merging.method import WORDING
from unmergeable.merging.tied_weights import tied_weights
from unmergeable.progress import Counter, Progress, silent
from unmergeable.protection.protect import locked_chain, seal_secret
from unmergeable.settings import check_known
from unmergeable.version import __version__

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class MergeReport:
    """What `merge` did.

    Attributes:
        out: the merged folder, or its address.
        method: the merge method.
        moved: the inputs that were moved into the lock's coordinates.
        locked: whether the result is locked, and the key gives the merge in open coordinates.
        notes: what the inputs differ in that may be meant, in sentences.

    Examples:
        >>> half = {"weight": 0.5}
        >>> unmergeable.merge(["expert", "peer"], "half", "linear", parameters=half).locked
        False
    """

    out: Place
    method: str
    moved: tuple[str, ...]
    locked: bool
    notes: tuple[str, ...] = ()


def merge(
    models: Sequence[str | Place],
    out: str | Path,
    method: str,
    *,
    base: str | Place | None = None,
    parameters: Mapping[str, Any] | None = None,
    key: Key | str | Path | None = None,
    seed: int = 0,
    allow_mismatch: bool = False,
    allow_non_finite: bool = False,
    progress: Progress = silent,
) -> MergeReport:
    """Merges models with one of mergekit's methods, or one of our own that needs weights alone.

    Without a key this is what any merge tool does. With the key of a locked input, the open inputs
    (and the base) are moved into that lock's coordinates first, so that the merge is as good as one
    of open models; the result carries the lock and can be unlocked with the same key. Inputs with
    other locks of that key are moved into the first one's, too.

    mergekit's methods stream tensor by tensor; our own hold all models in memory.

    Models whose configs compute different things, or whose tokenizers number the tokens otherwise,
    are refused, as are NaN and infinity on either side. Tied weights that some of them store twice
    are merged as one.

    Args:
        models: two or more folders, Hub ids or addresses (one for `passthrough`).
        out: the folder to make, or an address; absent or empty. Config and tokenizer come from the
            first model.
        method: see `merging.mergekit_bridge.methods` and `merging.methods.methods`.
        base: what task vectors are taken from. Methods on exactly two models may do without: the
            first one is their base.
        parameters: of the method; per-model ones as a list in the order of the models.
        key: the owner's, or its file.
        seed: of the methods that draw at random.
        allow_mismatch: merge in spite of what configs and tokenizers disagree on, and note it.
        allow_non_finite: carry NaN and infinities along instead of refusing them.
        progress: is told how far it is.

    Raises:
        UnmergeableError: one of its kinds.

    Examples:
        >>> report = unmergeable.merge(
        ...     ["locked", "peer"], "merged", "linear", parameters={"weight": 0.5}, key="owner.key"
        ... )
        >>> report.locked
        True
    """
    own = in_memory.method_named(method)
    chosen = own.contract if own else mergekit_bridge.method_named(method)
    paths = [locate(model) for model in models]
    base_path = None if base is None else locate(base)
    if base_path is None and chosen.base == "required" and chosen.inputs != len(paths):
        raise InputError(f"{method} needs the base model: pass --base.")
    base_index = 0 if chosen.base == "required" else None
    leader = 0  # whose config and tokenizer the output gets
    if base_path is not None and chosen.base:
        base_index, leader, paths = 0, 1, [base_path, *paths]
    _check_parameters(chosen, parameters or {})
    folders = [open_folder(path) for path in paths]
    first = folders[leader]
    notes: list[str] = []
    for folder in folders:
        if found := quantised(folder.config, folder.shapes):
            raise UnsupportedError(halves(found.method, "merged"))
        if folder is not first:
            notes += check_agreement(first, folder, allow_mismatch=allow_mismatch)
    digests: dict[str, str] = {}
    guard = threading.Lock()

    with ExitStack() as stack:
        readers = [stack.enter_context(TensorReader(folder)) for folder in folders]
        tied = tied_weights(readers[leader], readers)
        for folder in folders:
            check_same_tensors(first, folder, tied)
        lock = None if key is None else _lock_of(folders, first, key)

        def stored(reader: TensorReader, name: str) -> tuple[Bytes, TensorEntry]:
            """A tensor as a folder has it."""
            here = tied.stored(reader, name)
            content, entry = reader.read(here), reader.entry(here)
            if not allow_non_finite:
                _check_finite(content, entry, reader.folder)
            return content, entry

        def read(reader: TensorReader, name: str) -> tuple[Bytes, TensorEntry]:
            """A tensor in the coordinates of the merge."""
            if lock is None or str(reader.folder.path) not in lock.outsiders:
                return stored(reader, name)
            apart = lock.outsiders[str(reader.folder.path)]
            opened = lock.chain.source(name)
            source = opened if apart is None else apart.destination(opened)
            content, entry = stored(reader, source)
            if entry.dtype != reader.entry(tied.stored(reader, name)).dtype:
                raise InputError(
                    f"{reader.folder.path} stores {name} and {source} in different dtypes."
                )
            change = lock.chain.tensor_map(opened)
            if apart is not None:
                change = TensorChain.of([apart.tensor_map(opened).inverse, change])
            moved = change.apply(
                content, entry.shape, entry.dtype, allow_non_finite=allow_non_finite
            )
            return moved, entry

        state = None
        if own is not None:
            once = {name: shape for name, shape in first.shapes.items() if tied(name) == name}
            layout = Layout.of(first.config, once)
            state = own.merge(readers, read, layout, parameters or {}, seed)

        def transform(entry: TensorEntry, data: Bytes) -> Bytes:
            name = tied(entry.name)
            inputs = [read(reader, name) for reader in readers]
            if entry.dtype not in ROUNDABLE:
                merged = _shared(inputs, entry)
            elif state is not None:
                merged = _rounded(state[name], entry, allow_non_finite)
            else:
                tensors = [_to_torch(*pair) for pair in inputs]
                with guard:  # torch's random state is one for all threads
                    made = mergekit_bridge.merge_tensors(
                        tensors,
                        method,
                        base_index=base_index,
                        parameters=parameters,
                        name=name,
                        seed=seed,
                    )
                merged = _rounded(made, entry, allow_non_finite)
            if lock is not None and lock.manifest.lossless:
                source = lock.chain.source(entry.name)
                change = lock.chain.tensor_map(source).inverse
                opened = change.apply(
                    merged, entry.shape, entry.dtype, allow_non_finite=allow_non_finite
                )
                digests[source] = digest_of(opened.data)
            return merged

        rounds = lock is not None and not lock.manifest.lossless
        # What a merge's inputs were is not noted, so an interrupted one starts again.
        with staging_for(out, None) as staging:
            advance = Counter(progress, "merging", first.tensor_bytes)
            done = rewrite(first, staging, transform, written=rounds, advance=advance)
            secret = lock.key.secret if lock else b""
            files = done.files | copy_companions(first, staging, first.companions, secret)
            if lock is not None:
                weights = {"headers": headers_digest(first.files)}
                if rounds:
                    weights["locked"] = done.written
                else:
                    weights["original"] = weights_digest(first.tensors, digests)
                manifest = replace(
                    lock.manifest,
                    tool=f"unmergeable {__version__}",
                    weights=weights,
                    files=files,
                    version=VERSION,
                )
                manifest = manifest.sealed(seal_secret(lock.key))
                staging.write_file(MANIFEST, manifest.to_bytes())
            staging.publish()
    moved = tuple(lock.outsiders) if lock else ()
    return MergeReport(staging.out, method, moved, lock is not None, tuple(notes))


@dataclass(frozen=True)
class _Lock:
    """The lock of the first locked input, in which the merge takes place.

    Attributes:
        key: the owner's.
        manifest: of that input.
        chain: its defences.
        outsiders: the inputs that are not in that lock, by path: None for an open one, else the
            defences of a lock of its own.
    """

    key: Key
    manifest: Manifest
    chain: Chain
    outsiders: dict[str, Chain | None]


def _lock_of(folders: Sequence[ModelFolder], first: ModelFolder, key: Key | str | Path) -> _Lock:
    """Draws the locks of the inputs; all must be of this key.

    Raises:
        InputError: no input is locked.
        UnmergeableError: as `locked_chain`.
    """
    key = key if isinstance(key, Key) else load_key(key)
    layout = Layout.of_lock(first.config, first.shapes)
    locks = {
        str(folder.path): (manifest, locked_chain(manifest, key, layout, folder))
        for folder in folders
        if is_there(folder.path / MANIFEST)
        for manifest in [read_manifest(folder.path)]
    }
    if not locks:
        raise InputError("none of these models is locked: merge them without --key.")
    manifest, chain = next(iter(locks.values()))
    outsiders: dict[str, Chain | None] = {}
    for path in (str(folder.path) for folder in folders):
        theirs = locks.get(path)
        if theirs is None:
            outsiders[path] = None
        elif theirs[0].reversible != manifest.reversible:
            outsiders[path] = theirs[1]
    return _Lock(key, manifest, chain, outsiders)


def _shared(inputs: Sequence[tuple[Bytes, TensorEntry]], entry: TensorEntry) -> Bytes:
    """What all inputs have in common, for a tensor of no numbers to merge, such as position ids."""
    (content, _), *others = inputs
    if any(stored.dtype != entry.dtype or (other != content).any() for other, stored in others):
        raise InputError(f"dtype {entry.dtype} cannot be merged, and the models differ here.")
    return content


def _check_finite(content: Bytes, entry: TensorEntry, folder: ModelFolder) -> None:
    """Refuses an input's NaN and infinity.

    Raises:
        InputError: names the tensor and the model.
    """
    form = FORMATS.get(entry.dtype)
    try:
        if form is not None:
            check_finite(content.view(form.pattern), form)
    except InputError:
        raise InputError(
            f"{entry.name[:200]} of {folder.path} has a NaN or an infinity. Repair that model, or "
            "pass --allow-non-finite to carry such values along."
        ) from None


def _rounded(tensor: torch.Tensor, entry: TensorEntry, allow_non_finite: bool) -> Bytes:
    """A tensor's bytes in the dtype it is stored in.

    Raises:
        InputError: a number that is none, or that the dtype does not hold.
    """
    import torch

    cast = tensor.to(_dtype(entry)).contiguous()
    if not allow_non_finite and not cast.isfinite().all():
        held = bool(tensor.isfinite().all())
        what = (
            f"{tensor.abs().max():.3g}, which {entry.dtype} cannot hold" if held else "NaN or inf"
        )
        raise InputError(
            f"the merge of {entry.name[:200]} has {what}. Change the weights, begin with a model "
            "of a wider dtype, or pass --allow-non-finite."
        )
    return np.asarray(cast.reshape(-1).view(torch.uint8).numpy())


def _to_torch(content: Bytes, entry: TensorEntry) -> torch.Tensor:
    """A stored tensor as float32 (float64 stays)."""
    import torch

    stored = torch.from_numpy(content).view(_dtype(entry)).reshape(entry.shape)
    return stored if stored.dtype == torch.float64 else stored.to(torch.float32)


def _dtype(entry: TensorEntry) -> torch.dtype:
    import torch

    names = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    if entry.dtype not in ROUNDABLE:
        raise InputError(f"dtype {entry.dtype} cannot be merged.")
    dtype: torch.dtype = getattr(torch, names[entry.dtype])
    return dtype


def _check_parameters(method: mergekit_bridge.Method, given: Mapping[str, Any]) -> None:
    check_known(method.settings, given, method.name, WORDING)
    for name, parameter in method.settings.items():
        if parameter.required and name not in given:
            example = "0.5,0.5" if parameter.per_model else "0.5"
            raise InputError(
                f"{method.name} needs {name!r}: --set {name}={example}"
                f"{' (one value, or one per model)' if parameter.per_model else ''}."
            )
