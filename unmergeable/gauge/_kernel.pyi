"""The compiled kernel; `kernel` wraps it and _kernel.c says what it does."""

from typing import Any

Buffer = Any

def move(
    source: Buffer,
    out: Buffer,
    width: int,
    rows: int,
    columns: int,
    row_from: Buffer | None,
    column_from: Buffer | None,
    row_flips: Buffer | None,
    row_shifts: Buffer | None,
    flips: Buffer | None,
    shifts: Buffer | None,
    unit: int,
    nonfinite: int,
) -> bool: ...
def scale(
    source: Buffer,
    out: Buffer,
    width: int,
    rows: int,
    columns: int,
    row_from: Buffer | None,
    column_from: Buffer | None,
    row_scales: Buffer | None,
    scales: Buffer | None,
    nonfinite: int,
) -> bool: ...
def widen(
    source: Buffer,
    out: Buffer,
    width: int,
    rows: int,
    columns: int,
    row_from: Buffer,
    column_from: Buffer | None,
    scales: Buffer | None,
    nonfinite: int,
) -> bool: ...
def narrow(source: Buffer, out: Buffer, width: int, count: int, nonfinite: int) -> bool: ...
