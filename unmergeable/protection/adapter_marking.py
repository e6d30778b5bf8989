"""Mark a PEFT adapter: signs in B, which `trace` finds in the adapter and in what it went into."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unmergeable.architectures.layout import Layout
from unmergeable.checkpoint.adapter_folder import open_adapter
from unmergeable.checkpoint.adapter_texts import public_name
from unmergeable.checkpoint.folder import MANIFEST, ModelFolder, open_folder
from unmergeable.checkpoint.header import TensorEntry
from unmergeable.checkpoint.hub import resolve
from unmergeable.checkpoint.manifest import Manifest
from unmergeable.checkpoint.reader import TensorReader
from unmergeable.checkpoint.rewrite import rewrite
from unmergeable.checkpoint.small_files import is_there
from unmergeable.checkpoint.staging import Staging
from unmergeable.defences.mark import MARKED, Mark, read_settings, root_inverse, scale_of
from unmergeable.errors import InputError
from unmergeable.gauge.memory import Bytes
from unmergeable.keys.key import Key, load_key
from unmergeable.protection.adapter_changes import AdapterChanges
from unmergeable.protection.adapters import AdapterReport, write_texts
from unmergeable.protection.marking import link_of
from unmergeable.protection.protect import architecture_of, check_register, seal_secret
from unmergeable.protection.register import LicensedCopy, enter
from unmergeable.version import __version__


def mark_adapter(
    adapter: str | Path,
    out: str | Path,
    key: Key | str | Path,
    base: str | Path,
    *,
    settings: Mapping[str, Any] | None = None,
    register: str | Path | None = None,
) -> AdapterReport:
    """Writes a marked copy of an adapter; see `defences.mark`.

    Marked are the linear layers; what it has of embeddings, heads, biases and whole modules is
    copied. To carry it into a locked model, mark it first.

    Args:
        adapter: a LoRA, rank-stabilised LoRA or DoRA folder of PEFT, trained on the base.
        out: the folder to make; absent or empty.
        key: the owner's, or its file.
        base: the public base that the adapter is for.
        settings: the mark's by name: `strength` and `licensee`.
        register: as in `protect`.

    Raises:
        InputError: an adapter that is marked or carried already, that is of another model, or that
            changes no linear layer; a setting that cannot be.
        UnmergeableError: another of its kinds.

    Examples:
        >>> settings = {"licensee": "alice"}
        >>> copy = unmergeable.mark_adapter(
        ...     "adapter", "for-alice", "owner.key", "base", settings=settings
        ... )
        >>> report = unmergeable.trace(
        ...     copy.out, base="base", original="adapter", key="owner.key", licensees=["alice"]
        ... )
        >>> report.found
        True
    """
    key = key if isinstance(key, Key) else load_key(key)
    known = read_settings(settings or {})
    if register is not None:
        check_register(register, key, known)
    folder, model = open_adapter(adapter), open_folder(resolve(base))
    if is_there(folder.path / MANIFEST):
        raise InputError(f"{folder.path} is marked or carried already: mark the adapter itself.")
    layout = Layout.of_folder(model)
    layout.check_plain("marked")
    with AdapterChanges(folder, model, layout) as changes, Staging(out, None) as staging:
        scales = _scales(changes, model, known["strength"])
        if not scales:
            raise InputError(
                f"{folder.path} changes no matrix of a layer of {model.path}: nothing was trained "
                "that could carry a mark."
            )
        mark = Mark.of(key, changes.release, known["licensee"], scales)
        weights = {changes.factors[name].b: name for name in scales}

        def move(entry: TensorEntry, data: Bytes) -> Bytes:
            name = weights.get(entry.name)
            return data if name is None else _marked(mark, changes, name, entry, data)

        made = rewrite(folder, staging, move, read=True)
        named = public_name(folder)
        texts, digests = write_texts(folder, staging, key, named)
        manifest = Manifest(
            tool=f"unmergeable {__version__}",
            chain=(link_of(mark, key, known["strength"]),),
            key=key.id,
            architecture=architecture_of(layout),
            weights={"original": made.read},
            files=made.files | digests,
        )
        staging.write_file(MANIFEST, manifest.sealed(seal_secret(key)).to_bytes())
        if register is not None:
            enter(register, key, LicensedCopy(mark.licensee, mark.release))
        staging.publish()
    return AdapterReport(staging.out, False, made.read, folder.left_out, named, texts)


def _scales(changes: AdapterChanges, model: ModelFolder, strength: float) -> dict[str, float]:
    """By the name of the weight, what the signs are multiplied by."""
    scales = {}
    with TensorReader(model) as anchor:
        for name, one in changes.factors.items():
            if changes.reader.entry(one.b).dtype not in MARKED:
                continue
            change = changes.change(name, anchor.values(name))
            scale = strength * scale_of(changes.carrier(name)(change))
            if scale and one.scale:
                scales[name] = scale
    return scales


def _marked(
    mark: Mark, changes: AdapterChanges, name: str, entry: TensorEntry, data: Bytes
) -> Bytes:
    """The bytes of B with the signs: what they add to s B A has the mark's size in each number."""
    signs = mark.signs(name, int(np.prod(entry.shape))).reshape(entry.shape)
    turned = signs @ root_inverse(changes.parts(name)[0])
    scale = mark.scales[name] / changes.factors[name].scale
    return mark.put(name, entry.dtype, data, scale * turned.reshape(-1))
