"""Carry a PEFT adapter of an open model into a locked model's coordinates, and back.

An adapter adds s B A to a weight W. A lock makes R W C of it, with R on the axis that writes and C
on the one that reads; so B becomes R B and A becomes A C, and nothing else moves. Where a lock
gives a whole tensor another name, as it does with experts, the adapter's tensors follow; an adapter
of some experts alone, or of experts that are stored as one stack, is refused. `adapter_places` says
where each tensor belongs, and refuses what does not fit before anything is read. Only the key says
what R and C are: without it an adapter of the open model does not fit the locked one, and one that
was trained on the locked one does not fit the open one.

DoRA scales each row of W + s B A to a length of its own. Rows that a lock reorders, flips and
scales can be scaled again; rows that it mixes cannot, and such adapters are refused. Source: ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unmergeable.architectures.layout import Layout
from unmergeable.checkpoint.adapter_config import scale_of
from unmergeable.checkpoint.adapter_folder import TOKENS, open_adapter, parse_name
from unmergeable.checkpoint.adapter_texts import renamed_texts
from unmergeable.checkpoint.companions import copy_companions
from unmergeable.checkpoint.digest import digest_of
from unmergeable.checkpoint.folder import MANIFEST, ModelFolder, open_folder
from unmergeable.checkpoint.header import TensorEntry
from unmergeable.checkpoint.hub import resolve
from unmergeable.checkpoint.manifest import Link, Manifest, read_manifest
from unmergeable.checkpoint.reader import TensorReader
from unmergeable.checkpoint.rewrite import Rewritten, rewrite
from unmergeable.checkpoint.staging import Staging
from unmergeable.errors import InputError, ManifestError, UnsupportedError
from unmergeable.gauge.axis_map import AxisMap, Float, Index
from unmergeable.gauge.floats import FORMATS, check_finite
from unmergeable.gauge.memory import Bytes
from unmergeable.gauge.tensor_chain import TensorChain
from unmergeable.gauge.tensor_map import Change, TensorMap
from unmergeable.keys.key import Key, load_key
from unmergeable.protection.adapter_places import AdapterPlaces, Place
from unmergeable.protection.protect import locked_chain, record, seal_secret
from unmergeable.version import __version__


@dataclass(frozen=True)
class AdapterReport:
    """What carrying an adapter did.

    Attributes:
        out: the new folder.
        exact: whether nothing was rounded: of an adapter that was carried back, whether it is the
            original to the bit, as its digest proves.
        weights: the digest of the weights that are in open coordinates.
        left_out: files that may hold weights and were not copied.
        model: what its config now names as its model; None if that is left to its owner to fill in.
        renamed: texts, the config among them, that named another model and no longer do.

    Examples:
        >>> report = unmergeable.protect_adapter("adapter", "carried", "owner.key", "locked")
        >>> report.exact
        True
    """

    out: Path
    exact: bool
    weights: str
    left_out: tuple[str, ...]
    model: str | None = None
    renamed: tuple[str, ...] = ()


def protect_adapter(
    adapter: str | Path,
    out: str | Path,
    key: Key | str | Path,
    locked: str | Path,
    *,
    allow_non_finite: bool = False,
) -> AdapterReport:
    """Writes an open model's adapter in a locked model's coordinates.

    Args:
        adapter: a LoRA, rank-stabilised LoRA or DoRA folder of PEFT, trained on the open model.
        out: the folder to make; absent or empty.
        key: the owner's, or its file.
        locked: the locked model, on which the result runs as the adapter did on the open one. The
            result's config names it if it is an id on the Hub, and no model if it is a folder.
        allow_non_finite: carry NaN and infinities along instead of refusing them.

    Raises:
        UnmergeableError: one of its kinds; another key, an adapter of another model or kind.

    Examples:
        >>> report = unmergeable.protect_adapter("adapter", "adapter-locked", "owner.key", "locked")
        >>> (report.out / "adapter_config.json").is_file()
        True
    """
    work = _Work.of(adapter, key, locked)
    kept = _marks(work.folder)
    model = None if Path(locked).exists() else str(locked)
    with (
        _Mover(work, back=False, allow_non_finite=allow_non_finite) as mover,
        Staging(out, None) as staging,
    ):
        made = mover.carry(staging)
        texts, digests = write_texts(work.folder, staging, work.key, model)
        manifest = Manifest(
            tool=f"unmergeable {__version__}",
            chain=(*kept, *work.manifest.chain),
            key=work.key.id,
            architecture=work.manifest.architecture,
            weights={"original": made.read, "model": work.model_id},
            files=made.files | digests,
        )
        staging.write_file(MANIFEST, manifest.sealed(seal_secret(work.key)).to_bytes())
        staging.publish()
    lossless = work.manifest.lossless
    return AdapterReport(staging.out, lossless, made.read, work.folder.left_out, model, texts)


def unlock_adapter(
    adapter: str | Path, out: str | Path, key: Key | str | Path, locked: str | Path
) -> AdapterReport:
    """Writes an adapter of a locked model in the open model's coordinates.

    The adapter may be one that `protect_adapter` wrote, or one that was trained on the locked
    model. The result's config names no model, as nothing here says which the open one is.

    Args:
        adapter: a LoRA, rank-stabilised LoRA or DoRA folder of PEFT.
        out: the folder to make; absent or empty.
        key: the owner's, or its file.
        locked: the locked model.

    Raises:
        UnmergeableError: as `protect_adapter`; a manifest that was changed, or of another model.

    Examples:
        >>> _ = unmergeable.protect_adapter("adapter", "moved", "owner.key", "locked")
        >>> unmergeable.unlock_adapter("moved", "back", "owner.key", "locked").exact
        True
    """
    work = _Work.of(adapter, key, locked)
    known: Manifest | None = None
    kept: tuple[Link, ...] = ()
    if (work.folder.path / MANIFEST).exists():
        known = read_manifest(work.folder.path)
        kept = known.chain[: len(known.chain) - len(work.manifest.chain)]
        if (
            known.chain != (*kept, *work.manifest.chain)
            or known.weights.get("model", work.model_id) != work.model_id
            or not known.is_sealed_by(seal_secret(work.key))
        ):
            raise ManifestError(
                f"{work.folder.path / MANIFEST} was changed, or is not of an adapter for {locked}."
            )
    with (
        _Mover(work, back=True, allow_non_finite=True) as mover,
        Staging(out, None) as staging,
    ):
        made = mover.carry(staging)
        texts, _ = write_texts(work.folder, staging, work.key, None)
        exact = known is not None and made.written == known.weights.get("original")
        if kept:
            record(staging, kept, work.manifest.architecture)
        staging.publish()
    return AdapterReport(staging.out, exact, made.written, work.folder.left_out, None, texts)


def _marks(folder: ModelFolder) -> tuple[Link, ...]:
    """What was done to an adapter before, and stays.

    Raises:
        InputError: it is carried already.
    """
    if not (folder.path / MANIFEST).exists():
        return ()
    manifest = read_manifest(folder.path)
    if manifest.reversible:
        raise InputError(f"{folder.path} is carried already. Unlock it first.")
    return manifest.lasting


def write_texts(
    folder: ModelFolder, staging: Staging, key: Key, model: str | None
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Copies an adapter's companions, with another model's name where they name one.

    Args:
        folder: the adapter's.
        staging: where.
        key: the owner's, which must not be among them.
        model: as in `renamed_texts`.

    Returns:
        The names of those that were changed, and the digests of all.
    """
    texts = renamed_texts(folder, model)
    same = tuple(name for name in folder.companions if name not in texts)
    digests = copy_companions(folder, staging, same, key.secret)
    for name, content in texts.items():
        staging.write_file(name, content)
        digests[name] = digest_of(content)
    return tuple(texts), digests


@dataclass(frozen=True)
class _Work:
    """An adapter, the locked model it is for, and what the lock does."""

    folder: ModelFolder
    model: ModelFolder
    manifest: Manifest
    key: Key
    places: AdapterPlaces

    @classmethod
    def of(cls, adapter: str | Path, key: Key | str | Path, locked: str | Path) -> _Work:
        key = key if isinstance(key, Key) else load_key(key)
        folder, model = open_adapter(adapter), open_folder(resolve(locked))
        manifest = read_manifest(model.path)
        layout = Layout.of_lock(model.config, model.shapes)
        chain = locked_chain(manifest, key, layout, model)
        return cls(folder, model, manifest, key, AdapterPlaces(folder, model, chain))

    @property
    def model_id(self) -> str:
        """What tells the locked model from others: a digest of what it was locked from."""
        return self.manifest.weights.get("original", self.manifest.seal)


class _Mover:
    """Moves an adapter's tensors, into locked coordinates or back, with both folders open."""

    def __init__(self, work: _Work, *, back: bool, allow_non_finite: bool) -> None:
        self._work, self._back, self._lenient = work, back, allow_non_finite
        self._places, self._chain = work.places, work.places.chain
        self._adapter, self._model = TensorReader(work.folder), TensorReader(work.model)

    def __enter__(self) -> _Mover:
        self._adapter.__enter__()
        self._model.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._model.__exit__(*error)
        self._adapter.__exit__(*error)

    def carry(self, staging: Staging) -> Rewritten:
        """Writes the weights, and digests those in open coordinates."""
        read, written = not self._back, self._back
        return rewrite(
            self._work.folder, staging, self.move, source=self.source, read=read, written=written
        )

    def source(self, name: str) -> str:
        """The adapter's tensor whose content, moved, stands under a name in the end.

        Raises:
            UnsupportedError: the adapter has none for a weight that takes that weight's place.
        """
        here = self._places[name]
        move = self._chain.destination if self._back else self._chain.source
        origin = move(here.weight)
        if origin == here.weight:
            return name
        if (other := self._places.find(origin, here.part)) is not None:
            return other
        raise UnsupportedError(
            f"{name}: the lock puts another expert in the place of {here.weight}, and the adapter "
            "has nothing for that one. Adapt all experts of a layer, or none."
        )

    def move(self, entry: TensorEntry, data: Bytes) -> Bytes:
        """One tensor's bytes in the other coordinates."""
        place = self._places[entry.name]
        maps = self._maps(place.weight)
        if place.part.startswith("lora_magnitude_vector"):
            return self._magnitudes(entry, data, _matrices(maps, entry.name))
        changes: list[Change] = list(maps)
        if not parse_name(entry.name).is_whole:
            changes = [_factor(change, place) for change in _matrices(maps, entry.name)]
        moved = TensorChain.of([m.inverse for m in reversed(changes)] if self._back else changes)
        return moved.apply(data, entry.shape, entry.dtype, allow_non_finite=self._lenient)

    def _maps(self, name: str) -> list[Change]:
        """What each defence does to the weight that has that name where the adapter comes from."""
        maps: list[Change] = []
        name = self._chain.source(name) if self._back else name
        for gauge in self._chain.gauges:
            maps.append(self._chain.layout.tensor_map(name, gauge))
            name = self._chain.layout.destination(name, gauge)
        return maps

    def _magnitudes(self, entry: TensorEntry, data: Bytes, maps: list[TensorMap]) -> Bytes:
        """DoRA's lengths of the rows of W + s B A, for the rows as they stand after the move."""
        place = self._places[entry.name]
        rows, columns = [], []
        for change in maps:
            if len(change.axes) != 2:
                raise UnsupportedError(f"{entry.name}: DoRA on a tensor of more axes than two.")
            row, column = change.axes[::-1] if place.transposed else change.axes
            rows.append(row)
            columns.append(column)
        size = entry.shape[0]
        source, factor = _monomial(rows, size, entry.name)
        form = FORMATS.get(entry.dtype)
        if form is None:
            raise UnsupportedError(f"{entry.name} has dtype {entry.dtype}: it holds no numbers.")
        if not self._lenient:
            check_finite(data.view(form.pattern), form)
        values = form.values(data)
        if not all(column is None or _keeps_lengths(column) for column in columns):
            opened, locked = self._lengths(entry.name, TensorChain.of(maps))
            with np.errstate(all="ignore"):  # a row of zeros has no direction, in PEFT neither
                values = values / (locked if self._back else opened)
                moved = _follow(values, source, np.ones(size), self._back)
                moved = moved * (opened if self._back else locked)
        else:
            moved = _follow(values, source, np.abs(factor), self._back)
        return moved.astype(form.number).view(np.uint8)

    def _lengths(self, tensor: str, change: Change | TensorChain) -> tuple[Float, Float]:
        """Lengths of the rows of W + s B A in open and in locked coordinates, shape (out,) each.

        Raises:
            UnsupportedError: a weight that is in the adapter alone.
        """
        place, module = self._places[tensor], parse_name(tensor).module
        name, transposed = place.weight, place.transposed
        if name not in self._model:
            raise UnsupportedError(
                f"{tensor}: DoRA on {name}, which the locked model's folder has not, under a lock "
                "that scales it. Merge the adapter into the open model and lock the result."
            )
        weight = self._model.values(name if self._back else self._chain.destination(name))
        start = tensor[: tensor.index(module) + len(module)]
        kind = "lora_embedding_" if f"{start}.lora_embedding_A" in self._adapter else "lora_"
        ending = "" if kind == "lora_embedding_" else ".weight"
        a, b = (self._adapter.values(f"{start}.{kind}{x}{ending}") for x in "AB")
        product = b @ a * scale_of(self._work.folder.config, module, len(a))
        product = product.T if transposed else product
        if self._back:
            locked, opened = weight + product, change.inverse(weight + product)
        else:
            opened = change.inverse(weight) + product
            locked = change(opened)
        axis = 0 if transposed else 1
        return np.linalg.norm(opened, axis=axis), np.linalg.norm(locked, axis=axis)


def _matrices(maps: list[Change], tensor: str) -> list[TensorMap]:
    """Maps of one matrix.

    Raises:
        UnsupportedError: a stack of them, each of which moves in its own way.
    """
    found = [change for change in maps if isinstance(change, TensorMap)]
    if len(found) < len(maps):
        raise UnsupportedError(
            f"{tensor}: it adapts a stack of experts, and such adapters are not carried. Merge the "
            "adapter into the open model and lock the result."
        )
    return found


def _factor(change: TensorMap, place: Place) -> TensorMap:
    """What becomes of a part of a weight's change when the weight undergoes `change`."""
    if place.part == TOKENS:  # rows of a table, chosen by their numbers
        return TensorMap((None, *change.axes[1:]))
    writes, *reads = change.axes[::-1] if place.transposed else change.axes
    if place.part.endswith(".bias"):
        return TensorMap((writes,))
    if "_A" in place.part:
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
