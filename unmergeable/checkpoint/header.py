"""The header of a safetensors file: what is where.

The format: 8 bytes, the header's length as a little-endian integer; the header, JSON, at most
100 MB; then the tensors, without holes, row-major, little-endian.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmergeable.errors import InputError

MAX_HEADER = 100_000_000
# Bits per element, of the dtypes that safetensors 0.8 knows.
DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


@dataclass(frozen=True)
class TensorEntry:
    """One tensor in a file.

    Attributes:
        name: its name.
        dtype: its format, as the header writes it.
        shape: its dimensions.
        start: position of its first byte in the file.
        size: its bytes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    size: int


@dataclass(frozen=True)
class Header:
    """A file's header.

    Attributes:
        path: the file.
        raw: its bytes up to the first tensor, to be written again as they are.
        tensors: in the order of their bytes.
    """

    path: Path
    raw: bytes
    tensors: tuple[TensorEntry, ...]

    @property
    def file_size(self) -> int:
        """Size of the whole file in bytes."""
        return len(self.raw) + sum(entry.size for entry in self.tensors)


def read_header(path: Path) -> Header:
    """Reads and checks a header.

    Raises:
        InputError: a file that is truncated, not safetensors, or at odds with its own header.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            prefix = file.read(8)
            if len(prefix) < 8:
                raise InputError(f"{path} is truncated: it has {size} bytes and no header.")
            (length,) = struct.unpack("<Q", prefix)
            if length > min(MAX_HEADER, size - 8):
                raise InputError(
                    f"{path} is truncated or not safetensors: its header claims {length} bytes, "
                    f"the file has {size}."
                )
            text = file.read(length)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}.") from None
    try:
        table = json.loads(text, object_pairs_hook=no_duplicates)
        if not isinstance(table, dict):
            raise ValueError("it is not an object")
        table.pop("__metadata__", None)
        entries = [_entry(name, fields, 8 + length) for name, fields in table.items()]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{path} has a corrupt header: {error}.") from None
    entries.sort(key=lambda entry: (entry.start, entry.size))
    end = 8 + length
    for entry in entries:
        if entry.start != end:
            raise InputError(f"{path} has a corrupt header: a hole or an overlap at {entry.name}.")
        end += entry.size
    if end != size:
        what = "truncated" if end > size else "longer than its header says"
        raise InputError(f"{path} is {what}: {size} bytes instead of {end}. Download it again.")
    return Header(path, prefix + text, tuple(entries))


def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A hook for JSON objects whose keys must be unique."""
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} stands in it twice")
    return table


def _entry(name: str, fields: Mapping[str, Any], data_start: int) -> TensorEntry:
    dtype, shape, (start, stop) = fields["dtype"], fields["shape"], fields["data_offsets"]
    if dtype not in DTYPE_BITS:
        raise ValueError(f"{name} has the unknown dtype {dtype!r}")
    if not all(type(n) is int and n >= 0 for n in [*shape, start, stop]):
        raise ValueError(f"{name} has a shape or offsets that are not natural numbers")
    bits = math.prod(shape) * DTYPE_BITS[dtype]
    if bits % 8 or bits // 8 != stop - start:
        raise ValueError(f"{name} has {stop - start} bytes, but {dtype} {shape} needs {bits / 8:g}")
    return TensorEntry(name, dtype, tuple(shape), data_start + start, stop - start)
