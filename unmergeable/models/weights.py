"""A model's tensors in memory, with the hash of their content."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from unmergeable.checkpoint.folder import ModelFolder, open_folder
from unmergeable.checkpoint.header import TensorEntry
from unmergeable.checkpoint.reader import TensorReader
from unmergeable.gauge.memory import Bytes

if TYPE_CHECKING:
    import torch

_PIECE = 1 << 20  # numbers
# The names that safetensors headers give to torch's dtypes.
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}


@dataclass(frozen=True, eq=False)
class Weights:
    """A model's tensors by their names in its folder; floating-point ones are float32."""

    tensors: Mapping[str, torch.Tensor]

    @classmethod
    def read(cls, folder: str | Path | ModelFolder) -> Weights:
        """Loads a model folder, whatever its shards and dtype."""
        opened = folder if isinstance(folder, ModelFolder) else open_folder(Path(folder))
        with TensorReader(opened) as reader:
            return cls.of_bytes(opened, {name: reader.read(name) for name in opened.shapes})

    @classmethod
    def of_bytes(cls, folder: ModelFolder, content: Mapping[str, Bytes]) -> Weights:
        """Takes tensors as stored in a folder's dtypes, such as aligned ones."""
        entries = {entry.name: entry for header in folder.files for entry in header.tensors}
        return cls(
            {name: as_float32(stored(data, entries[name])) for name, data in content.items()}
        )

    @cached_property
    def digest(self) -> str:
        """SHA-256 over names, shapes and float32 values."""
        hasher = hashlib.sha256()
        for name in sorted(self.tensors):
            tensor = self.tensors[name].contiguous()
            hasher.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            hasher.update(np.ascontiguousarray(tensor.numpy()).data)
        return hasher.hexdigest()

    @property
    def parameters(self) -> int:
        """How many numbers there are."""
        return sum(tensor.numel() for tensor in self.tensors.values())

    @property
    def norm(self) -> float:
        """Frobenius norm of all tensors together."""
        pieces = (piece for tensor in self.tensors.values() for piece in _pieces(tensor))
        return math.sqrt(sum(float(piece.double().square().sum()) for piece in pieces))

    def distance(self, other: Weights) -> float:
        """Frobenius distance of two models with the same tensors, over what both have of each."""
        gaps = (
            float((ours.double() - theirs.double()).square().sum())
            for name, tensor in self.tensors.items()
            for ours, theirs in zip(
                *map(_pieces, _common(tensor, other.tensors[name])), strict=True
            )
        )
        return math.sqrt(sum(gaps))

    def distance_to(self, folder: ModelFolder) -> float:
        """Frobenius distance to a folder's model, of which one tensor at a time is in memory."""
        total = 0.0
        with TensorReader(folder) as reader:
            for name, tensor in self.tensors.items():
                other = Weights({name: as_float32(stored(reader.read(name), reader.entry(name)))})
                total += Weights({name: tensor}).distance(other) ** 2
        return math.sqrt(total)


def _common(one: torch.Tensor, two: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What both have, where one has more rows or columns; on the first one's device."""
    two = two.to(one.device)
    if one.shape == two.shape:
        return one, two
    part = tuple(slice(min(pair)) for pair in zip(one.shape, two.shape, strict=True))
    return one[part], two[part]


def _pieces(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """A tensor cut for sums in float64, which of a whole embedding table would take much memory."""
    yield from tensor.reshape(-1).split(_PIECE)


def stored(data: Bytes, entry: TensorEntry) -> torch.Tensor:
    """A tensor in the dtype it is stored in; shares the bytes' memory."""
    import torch

    return torch.from_numpy(data).view(getattr(torch, _DTYPES[entry.dtype])).reshape(entry.shape)


def as_float32(tensor: torch.Tensor) -> torch.Tensor:
    """Floating-point tensors as float32; buffers of whole numbers stay."""
    return tensor.float() if tensor.is_floating_point() else tensor
