"""Carry a PEFT adapter of an open model into a locked model's coordinates, and back.

An adapter adds s B A to a weight W. A lock makes R W C of it, with R on the axis that writes and C
on the one that reads; so B becomes R B and A becomes A C, and nothing else moves. Where a lock
gives a whole tensor another name, as it does with experts, the adapter's tensors follow; an adapter
of some experts alone, or of experts that are stored as one stack, is refused. Only the key says
what R and C are: without it an adapter of the open model does not fit the locked one, and one that
was trained on the locked one does not fit the open one.

DoRA scales each row of W + s B A to a length of its own. Rows that a lock reorders, flips and
scales can be scaled again; rows that it mixes cannot, and such adapters are refused. Source: ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from unmergeable.architectures.layout import Layout
from unmergeable.checkpoint.adapter_folder import open_adapter, parse_name, scale_of
from unmergeable.checkpoint.companions import copy_companions
from unmergeable.checkpoint.folder import MANIFEST, ModelFolder, open_folder
from unmergeable.checkpoint.header import TensorEntry
from unmergeable.checkpoint.hub import resolve
from unmergeable.checkpoint.manifest import Manifest, read_manifest
from unmergeable.checkpoint.reader import TensorReader
from unmergeable.checkpoint.rewrite import Rewritten, rewrite
from unmergeable.checkpoint.staging import Staging
from unmergeable.defences.chain import Chain
from unmergeable.errors import InputError, ManifestError, UnsupportedError
from unmergeable.gauge.axis_map import AxisMap, Float, Index
from unmergeable.gauge.floats import FORMATS
from unmergeable.gauge.tensor_chain import TensorChain
from unmergeable.gauge.tensor_map import Change, TensorMap
from unmergeable.keyed_hash import published
from unmergeable.keys import Key, load_key
from unmergeable.memory import Bytes
from unmergeable.protection import locked_chain, seal_secret
from unmergeable.version import __version__


@dataclass(frozen=True)
class AdapterReport:
    """What carrying an adapter did.

    Attributes:
        out: the new folder.
        exact: whether nothing was rounded: of an adapter that was carried back, whether it is the
            original to the bit, as its hash proves.
        weights: the digest, made with the key, of the weights that are in open coordinates.
        left_out: files that may hold weights and were not copied.
    """

    out: Path
    exact: bool
    weights: str
    left_out: tuple[str, ...]


def protect_adapter(
    adapter: str | Path, out: str | Path, key: Key | str | Path, locked: str | Path
) -> AdapterReport:
    """Writes an open model's adapter in a locked model's coordinates.

    Args:
        adapter: a LoRA, rank-stabilised LoRA or DoRA folder of PEFT, trained on the open model.
        out: the folder to make; absent or empty.
        key: the owner's, or its file.
        locked: the locked model, on which the result runs as the adapter did on the open one.

    Raises:
        UnmergeableError: one of its kinds; another key, an adapter of another model or kind.
    """
    work = _Work.of(adapter, key, locked)
    if (work.folder.path / MANIFEST).exists():
        raise InputError(f"{work.folder.path} is carried already. Unlock it first.")
    with work.open(back=False) as mover, Staging(out, None) as staging:
        made = mover.carry(staging)
        names = work.folder.companions
        files = made.written.files | copy_companions(work.folder, staging, names, work.key.secret)
        manifest = Manifest(
            tool=f"unmergeable {__version__}",
            chain=work.manifest.chain,
            key=work.key.id,
            architecture=work.manifest.architecture,
            weights={"original": made.read.weights},
            files=files,
        )
        staging.write_file(MANIFEST, manifest.sealed(seal_secret(work.key)).to_bytes())
        staging.publish()
    return AdapterReport(
        staging.out, work.manifest.lossless, made.read.weights, work.folder.left_out
    )


def unlock_adapter(
    adapter: str | Path, out: str | Path, key: Key | str | Path, locked: str | Path
) -> AdapterReport:
    """Writes an adapter of a locked model in the open model's coordinates.

    The adapter may be one that `protect_adapter` wrote, or one that was trained on the locked
    model.

    Args:
        adapter: a LoRA, rank-stabilised LoRA or DoRA folder of PEFT.
        out: the folder to make; absent or empty.
        key: the owner's, or its file.
        locked: the locked model.

    Raises:
        UnmergeableError: as `protect_adapter`; a manifest that was changed, or of another model.
    """
    work = _Work.of(adapter, key, locked)
    known = None
    if (work.folder.path / MANIFEST).exists():
        known = read_manifest(work.folder.path)
        if known.chain != work.manifest.chain or not known.is_sealed_by(seal_secret(work.key)):
            raise ManifestError(
                f"{work.folder.path / MANIFEST} was changed, or is not of an adapter for {locked}."
            )
    with work.open(back=True) as mover, Staging(out, None) as staging:
        made = mover.carry(staging)
        copy_companions(work.folder, staging, work.folder.companions, work.key.secret)
        exact = known is not None and made.written.weights == known.weights.get("original")
        staging.publish()
    return AdapterReport(staging.out, exact, made.written.weights, work.folder.left_out)


@dataclass(frozen=True)
class _Work:
    """An adapter, the locked model it is for, and what the lock does."""

    folder: ModelFolder
    model: ModelFolder
    manifest: Manifest
    key: Key
    chain: Chain

    @classmethod
    def of(cls, adapter: str | Path, key: Key | str | Path, locked: str | Path) -> _Work:
        key = key if isinstance(key, Key) else load_key(key)
        folder, model = open_adapter(adapter), open_folder(resolve(locked))
        manifest = read_manifest(model.path)
        layout = Layout.of_folder(model)
        return cls(folder, model, manifest, key, locked_chain(manifest, key, layout, model))

    def open(self, *, back: bool) -> _Mover:
        """What moves the adapter's tensors, with both folders' files open."""
        return _Mover(self, back)


class _Mover:
    """Moves an adapter's tensors, into locked coordinates or back."""

    def __init__(self, work: _Work, back: bool) -> None:
        self._work, self._back = work, back
        self._adapter, self._model = TensorReader(work.folder), TensorReader(work.model)

    def __enter__(self) -> _Mover:
        self._adapter.__enter__()
        self._model.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._model.__exit__(*error)
        self._adapter.__exit__(*error)

    def carry(self, staging: Staging) -> Rewritten:
        """Writes the weights; both sides are hashed with the key."""
        work = self._work
        hashing = published(work.key)
        return rewrite(work.folder, staging, self.move, source=self.source, hashing=hashing)

    def source(self, name: str) -> str:
        """The adapter's tensor whose content, moved, stands under a name in the end.

        Raises:
            UnsupportedError: the adapter has none for a weight that takes that weight's place.
        """
        chain, (weight, part) = self._work.chain, self._places[name]
        origin = chain.destination(weight) if self._back else chain.source(weight)
        if origin == weight:
            return name
        for other, place in self._places.items():
            if place == (origin, part):
                return other
        raise UnsupportedError(
            f"{name}: the lock puts another expert in the place of {weight}, and the adapter has "
            "nothing for that one. Adapt all experts of a layer, or none."
        )

    def move(self, entry: TensorEntry, data: Bytes) -> Bytes:
        """One tensor's bytes in the other coordinates."""
        module, part = parse_name(entry.name)
        if part.startswith("lora_magnitude_vector"):
            return self._magnitudes(entry, data, module)
        maps = self._maps(self._places[entry.name][0], entry.name)
        if part:
            maps = [_factor(change, part, self._is_transposed(part)) for change in maps]
        moved = TensorChain.of([m.inverse for m in reversed(maps)] if self._back else maps)
        return moved.apply(data, entry.shape, entry.dtype)

    def _maps(self, name: str, tensor: str) -> list[TensorMap]:
        """What each defence does to the weight that has that name where the adapter comes from.

        Raises:
            UnsupportedError: a stack of experts, each of which moves in its own way.
        """
        chain, maps = self._work.chain, []
        name = chain.source(name) if self._back else name
        for gauge in chain.gauges:
            change = chain.layout.tensor_map(name, gauge)
            if not isinstance(change, TensorMap):
                raise UnsupportedError(
                    f"{tensor}: {name} is a stack of experts, whose adapters are not carried. "
                    "Merge the adapter into the open model and lock the result."
                )
            maps.append(change)
            name = chain.layout.destination(name, gauge)
        return maps

    @cached_property
    def _places(self) -> dict[str, tuple[str, str]]:
        """For each tensor of the adapter, the weight it changes and which part of it it is.

        Raises:
            InputError: a weight that the model lacks.
        """
        layout, found = self._work.chain.layout, {}
        for tensor in self._work.folder.tensors:
            module, part = parse_name(tensor)
            spelled = f"{module}.weight" if part else module
            name = layout.stored_name(spelled)
            if name is None:
                raise InputError(
                    f"{tensor}: the locked model has no tensor {spelled!r}. Is this an adapter of "
                    "it?"
                )
            found[tensor] = (name, part)
        return found

    def _is_transposed(self, part: str) -> bool:
        """Whether the adapted weight is stored (in, out): GPT-2's, and embedding tables."""
        return "embedding" in part or bool(self._work.folder.config.get("fan_in_fan_out"))

    def _magnitudes(self, entry: TensorEntry, data: Bytes, module: str) -> Bytes:
        """DoRA's lengths of the rows of W + s B A, for the rows as they stand after the move."""
        name, _ = self._places[entry.name]
        maps = self._maps(name, entry.name)
        transposed = self._is_transposed("")
        rows, columns = [], []
        for change in maps:
            if len(change.axes) != 2:
                raise UnsupportedError(f"{entry.name}: DoRA on a tensor of more axes than two.")
            row, column = change.axes[::-1] if transposed else change.axes
            rows.append(row)
            columns.append(column)
        size = int(np.prod(entry.shape))
        source, factor = _monomial(rows, size, entry.name)
        form = FORMATS[entry.dtype]
        values = form.values(data)
        if not all(column is None or _keeps_lengths(column) for column in columns):
            opened, locked = self._lengths(name, module, TensorChain.of(maps), transposed)
            values = values / (locked if self._back else opened)
            moved = _follow(values, source, np.ones(size), self._back)
            moved = moved * (opened if self._back else locked)
        else:
            moved = _follow(values, source, np.abs(factor), self._back)
        return moved.astype(form.number).view(np.uint8)

    def _lengths(
        self, name: str, module: str, change: Change | TensorChain, transposed: bool
    ) -> tuple[Float, Float]:
        """Lengths of the rows of W + s B A in open and in locked coordinates, shape (out,) each."""
        chain = self._work.chain
        weight = _read(self._model, name if self._back else chain.destination(name))
        prefix = next(n for n in self._work.folder.tensors if parse_name(n).module == module)
        prefix = prefix[: prefix.index(module) + len(module)]
        a, b = (_read(self._adapter, f"{prefix}.lora_{x}.weight") for x in "AB")
        product = b @ a * scale_of(self._work.folder.config, module, len(a))
        product = product.T if transposed else product
        if self._back:
            locked, opened = weight + product, change.inverse(weight + product)
        else:
            opened = change.inverse(weight) + product
            locked = change(opened)
        axis = 0 if transposed else 1
        return np.linalg.norm(opened, axis=axis), np.linalg.norm(locked, axis=axis)


def _factor(change: TensorMap, part: str, transposed: bool) -> TensorMap:
    """What becomes of one of the two factors when the weight they add to undergoes `change`."""
    writes, *reads = change.axes[::-1] if transposed else change.axes
    if part.endswith(".bias"):
        return TensorMap((writes,))
    if "_A" in part:
        return TensorMap((None, *reads))
    return TensorMap((writes, *(None for _ in reads)))


def _monomial(rows: list[AxisMap | None], size: int, name: str) -> tuple[Index, Float]:
    """Where each row comes from after all maps, and what it was multiplied by."""
    source, factor = np.arange(size), np.ones(size)
    for row in rows:
        if row is None:
            continue
        if row.scale is None:
            raise UnsupportedError(
                f"{name}: the lock mixes the rows of this weight, and DoRA's lengths of rows "
                "cannot follow. Merge the adapter into the open model and lock the result, or use "
                "--set kind=lossless for the lock."
            )
        source, factor = source[row.source], factor[row.source] * row.scale
    return source, factor


def _follow(values: Float, source: Index, factor: Float, back: bool) -> Float:
    """Reorders values with the rows they belong to."""
    if not back:
        return np.asarray(values[source] * factor)
    out = np.empty_like(values)
    out[source] = values / factor
    return out


def _keeps_lengths(column: AxisMap) -> bool:
    """Whether every row keeps its length."""
    return column.scale is not None and bool((np.abs(column.scale) == 1).all())


def _read(reader: TensorReader, name: str) -> Float:
    entry = reader.entry(name)
    return FORMATS[entry.dtype].values(reader.read(name)).reshape(entry.shape)
