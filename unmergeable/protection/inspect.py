"""What a model offers to a lock: its spaces, their groups, and what stays."""

from __future__ import annotations

import math
from dataclasses import dataclass

from unmergeable.architectures.layout import Layout
from unmergeable.checkpoint.folder import MANIFEST, ModelFolder, open_folder
from unmergeable.checkpoint.hub import locate
from unmergeable.checkpoint.manifest import Manifest, read_manifest
from unmergeable.checkpoint.remote import Place
from unmergeable.checkpoint.small_files import is_there
from unmergeable.defences.lock import LockSettings, gauge
from unmergeable.errors import UnsupportedError
from unmergeable.gauge.floats import FORMATS
from unmergeable.gauge.tensor_map import check_format
from unmergeable.keys.key import Key


@dataclass(frozen=True)
class SpaceReport:
    """One space of a model.

    Attributes:
        name: as `--set spaces=` takes it.
        size: positions of one instance.
        instances: how many there are.
        per: the index spaces that select one.
        group: what an instance may undergo; empty for a fixed space.
        bits: secret that the default lock draws for all instances, in bits.
        fixed: why it stays; empty for a space that moves.
    """

    name: str
    size: int | None
    instances: int
    per: tuple[str, ...]
    group: str
    bits: float
    fixed: str


@dataclass(frozen=True)
class TensorReport:
    """The tensors of one kind: a template of their names, their axes, how many there are."""

    name: str
    axes: str
    count: int


@dataclass(frozen=True)
class InspectReport:
    """What `inspect` found.

    Attributes:
        path: the folder.
        family: the architecture's.
        model_class: the transformers class.
        parameters: number of weights stored.
        dtypes: bytes by dtype.
        spaces: movable ones first.
        tensors: by kind.
        left_out: files beside the weights that `protect` will not copy.
        manifest: of a protected folder.

    Examples:
        >>> unmergeable.inspect("expert").bits > 100
        True
    """

    path: Place
    family: str
    model_class: str
    parameters: int
    dtypes: dict[str, int]
    spaces: tuple[SpaceReport, ...]
    tensors: tuple[TensorReport, ...]
    left_out: tuple[str, ...]
    manifest: Manifest | None

    @property
    def bits(self) -> float:
        """Secret that the default lock draws, in bits."""
        return sum(space.bits for space in self.spaces)


def inspect(model: str | Place) -> InspectReport:
    """Reads a model's headers and says what a lock would do to it; no weight is read.

    Args:
        model: a model folder, the id of one on the Hub, or an address such as s3://bucket/model.

    Raises:
        UnmergeableError: as `protect` would for the same folder.

    Examples:
        >>> report = unmergeable.inspect("expert")
        >>> report.family, report.model_class
        ('Llama', 'LlamaForCausalLM')
    """
    folder = open_folder(locate(model))
    layout = Layout.of_folder(folder)
    entries = folder.tensors.values()
    dtypes: dict[str, int] = {}
    for entry in entries:
        dtypes[entry.dtype] = dtypes.get(entry.dtype, 0) + entry.size
    settings = LockSettings.resolve({}, layout)
    _check_dtypes(folder, layout, settings)
    bits = settings.bits(layout)
    movable = layout.movable()
    indices = {name for p in layout.placements.values() for name in p.index}
    used = {n for p in layout.placements.values() for axis in p.rule.axes for n in axis.names()}
    spaces = [
        SpaceReport(
            name,
            space.size,
            sum(1 for _ in layout.instances(space)),
            space.per,
            space.group.sentence if space.group else "",
            bits.get(name, 0.0),
            space.fixed,
        )
        for name, space in sorted(layout.spaces.items(), key=lambda item: item[0] not in movable)
        if name in used | indices
    ]
    kinds: dict[tuple[str, str], int] = {}
    for name, placement in layout.placements.items():
        axes = " ".join(map(str, placement.rule.axes))
        kind = placement.rule.spelling(name)
        kinds[kind, axes] = kinds.get((kind, axes), 0) + 1
    manifest = read_manifest(folder.path) if is_there(folder.path / MANIFEST) else None
    return InspectReport(
        folder.path,
        layout.family,
        layout.model_class,
        sum(math.prod(entry.shape) for entry in entries),
        dtypes,
        tuple(spaces),
        tuple(TensorReport(name, axes, count) for (name, axes), count in kinds.items()),
        folder.left_out,
        manifest,
    )


def _check_dtypes(folder: ModelFolder, layout: Layout, settings: LockSettings) -> None:
    """Refuses tensors that the default lock would move, and that no arithmetic is known for.

    Raises:
        UnsupportedError: names one.
    """
    any_key = gauge(Key(bytes(32)), settings)
    seen = set()
    for entry in folder.tensors.values():
        kind = id(layout.placements[entry.name].rule), entry.dtype
        if entry.dtype in FORMATS or kind in seen:
            continue
        seen.add(kind)
        change = layout.tensor_map(entry.name, any_key)
        try:
            check_format(change, entry.dtype)
        except UnsupportedError as error:
            raise UnsupportedError(f"{entry.name}: {error}") from None
