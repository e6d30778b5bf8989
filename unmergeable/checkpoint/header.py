"""The header of a safetensors file: what is where.

The format: 8 bytes, the header's length as a little-endian integer; the header, JSON, at most
100 MB; then the tensors, without holes, row-major, little-endian.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmergeable.checkpoint.remote import Place
from unmergeable.checkpoint.small_files import check_no_pointer, check_parsable, open_regular
from unmergeable.errors import InputError, clip

MAX_HEADER = 100_000_000
MAX_NAME = 1024
MAX_DIMENSIONS = 64
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
        stamp: a mark of the file as it was then; another one says that it was changed since.
    """

    path: Place
    raw: bytes
    tensors: tuple[TensorEntry, ...]
    stamp: str = ""

    @property
    def file_size(self) -> int:
        """Size of the whole file in bytes."""
        return len(self.raw) + sum(entry.size for entry in self.tensors)


def stamp_of(status: os.stat_result) -> str:
    """A mark that changes when a file on this machine does.

    Size and time of modification alone do not tell: who copies with `cp -p` or `rsync -t`, or puts
    the time back, has other bytes under both. The time of the last change of the inode is set by
    the system alone, also when another file takes the name. The inode's number is left out: some
    network file systems give another one to the same file from one opening to the next.
    """
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}"


def read_header(path: Place) -> Header:
    """Reads and checks a header.

    Raises:
        InputError: a file that is truncated, not safetensors, or at odds with its own header.
    """
    try:
        with _opened(path) as (size, stamp, read):
            prefix = read(8)
            if len(prefix) < 8:
                raise InputError(f"{path} is truncated: it has {size} bytes and no header.")
            (length,) = struct.unpack("<Q", prefix)
            if prefix == b"version ":
                check_no_pointer(path, prefix + read(64))
            if length > min(MAX_HEADER, size - 8):
                raise InputError(
                    f"{path} is truncated or not safetensors: its header claims {length} bytes, "
                    f"the file has {size}."
                )
            text = read(length)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}.") from None
    try:
        table = parse_json(text)
        if not isinstance(table, dict):
            raise ValueError("it is not an object")
        _check_metadata(table.pop("__metadata__", None))
        entries = [_entry(name, fields, 8 + length) for name, fields in table.items()]
    except ValueError as error:
        raise InputError(f"{path} has a corrupt header: {clip(error, 400)}.") from None
    entries.sort(key=lambda entry: (entry.start, entry.size))
    end = 8 + length
    for entry in entries:
        if entry.start != end:
            raise InputError(
                f"{path} has a corrupt header: a hole or an overlap at {clip(entry.name)}."
            )
        end += entry.size
    if end != size:
        what = "truncated" if end > size else "longer than its header says"
        raise InputError(f"{path} is {what}: {size} bytes instead of {end}. Download it again.")
    return Header(path, prefix + text, tuple(entries), stamp)


@contextmanager
def _opened(path: Place) -> Iterator[tuple[int, str, Callable[[int], bytes]]]:
    """A file's size, its stamp, and what reads this many bytes more of it."""
    if isinstance(path, Path):
        with os.fdopen(open_regular(path), "rb") as file:
            status = os.fstat(file.fileno())
            yield status.st_size, stamp_of(status), file.read
        return
    place, done = path, 0

    def read(count: int) -> bytes:
        nonlocal done
        done += count
        return place.read_range(done - count, min(done, size)) if count else b""

    size, stamp = place.measure()
    yield size, stamp, read


def parse_json(content: bytes) -> Any:
    """Reads JSON as strictly as safetensors does: Python's own reader takes more than JSON.

    Raises:
        ValueError: not UTF-8, not JSON, NaN, a negative integer, half a surrogate pair, a key that
            stands twice in one object, nesting without end, or more of it than fits in memory.
    """
    check_parsable(content)
    text = content.decode("utf-8")
    try:
        return json.loads(
            text, object_pairs_hook=_no_duplicates, parse_constant=_refuse, parse_int=_natural
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _natural(digits: str) -> int:
    if digits.startswith("-"):
        raise ValueError(f"{clip(digits)} is negative")
    if len(digits) > 20:  # 2^64 has 20 digits, and no number of a header is larger
        raise ValueError(f"{clip(digits, 40)} is too large")
    return int(digits)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A hook for JSON objects whose keys must be unique, and text that can be written again."""
    table = dict(pairs)
    for name in table:
        name.encode()
    if len(table) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = next(name for name, count in counts.items() if count > 1)
        raise ValueError(f"{clip(repr(twice))} stands in it twice")
    return table


def _check_metadata(metadata: Any) -> None:
    if metadata is None:
        return
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("its __metadata__ is not a table of texts")
    for value in metadata.values():
        value.encode()


def _entry(name: str, fields: Any, data_start: int) -> TensorEntry:
    if len(name) > MAX_NAME:
        raise ValueError(f"the name {clip(name)} has {len(name):,} characters")
    shown = clip(name)
    if not isinstance(fields, dict):
        raise ValueError(f"{shown} is not described by an object")
    if missing := [key for key in ("dtype", "shape", "data_offsets") if key not in fields]:
        raise ValueError(f"{shown} has no {missing[0]}")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        known = dtype if isinstance(dtype, str) else type(dtype).__name__
        raise ValueError(f"{shown} has the unknown dtype {clip(known)!r}")
    if not _are_naturals(shape) or not _are_naturals(offsets) or len(offsets) != 2:
        raise ValueError(f"{shown} has a shape or offsets that are not natural numbers")
    if len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"{shown} has {len(shape):,} dimensions")
    if math.prod(n or 1 for n in shape) >= 1 << 60:
        raise ValueError(f"{shown} has the impossible shape {clip(shape)}")
    start, stop = offsets
    bits = math.prod(shape) * DTYPE_BITS[dtype]
    if bits % 8 or bits // 8 != stop - start:
        raise ValueError(
            f"{shown} has {stop - start} bytes, but {dtype} {clip(shape)} needs {bits / 8:g}"
        )
    return TensorEntry(name, dtype, tuple(shape), data_start + start, stop - start)


def _are_naturals(numbers: Any) -> bool:
    """Whether this is a list of natural numbers; parse_json lets no negative ones through."""
    return isinstance(numbers, list) and all(type(n) is int for n in numbers)
