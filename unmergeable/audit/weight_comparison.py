"""A protected model's weights, unlocked in memory, against the original's: one read of both."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from unmergeable.architectures.layout import Layout
from unmergeable.checkpoint.folder import ModelFolder
from unmergeable.checkpoint.in_order import in_order
from unmergeable.checkpoint.manifest import read_manifest
from unmergeable.checkpoint.reader import TensorReader
from unmergeable.checkpoint.rewrite import BUDGET, Progress
from unmergeable.gauge.floats import FORMATS
from unmergeable.keys import Key, load_key
from unmergeable.memory import Arena, Bytes
from unmergeable.protection import locked_chain

# A general lock's weights come back within a few units of rounding, times the condition number.
WEIGHT_UNITS = 8
# Tensors in memory for one comparison: both models', and what the key makes of the protected one.
_COPIES = 3
# What is left for other tensors while the largest one is compared, in bytes.
_BESIDE = 128 << 20
# Bytes, and where two tensors differ numbers, that are looked at together.
_PIECE = 1 << 20


@dataclass(frozen=True)
class WeightComparison:
    """The protected weights, unlocked with the key, against the original's.

    Attributes:
        tensors: how many.
        identical: how many are the same bit for bit.
        max_difference: the largest difference of a tensor, Frobenius norm relative to its own.
        worst: the tensor that has it; empty if all are identical.
        tolerance: allowed `max_difference`: 0 for a lossless lock.
    """

    tensors: int
    identical: int
    max_difference: float
    worst: str
    tolerance: float

    @property
    def same(self) -> bool:
        """Whether every tensor came back."""
        return bool(self.max_difference <= self.tolerance)


def compare_weights(
    original: ModelFolder,
    protected: ModelFolder,
    key: Key | str | Path,
    progress: Progress = lambda done: None,
) -> WeightComparison:
    """Unlocks tensor by tensor, on all processors, and compares.

    Args:
        original: the open model.
        protected: what was made of it.
        key: the owner's, or its file.
        progress: called with the bytes of each tensor just compared.

    Raises:
        UnmergeableError: another key, a damaged manifest or file.
    """
    key = key if isinstance(key, Key) else load_key(key)
    manifest = read_manifest(protected.path)
    layout = Layout.of(protected.config, protected.shapes)
    chain = locked_chain(manifest, key, layout, protected)
    identical, largest, worst, unit = 0, 0.0, "", 0.0
    entries = protected.tensors
    most = max((entry.size for entry in entries.values()), default=0)
    with (
        TensorReader(original) as wanted,
        TensorReader(protected) as locked,
        ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,
    ):

        def compare(name: str) -> tuple[str, float | None]:
            """A tensor's relative difference; None if there is none at all."""
            moved = chain.destination(name)
            one, two = wanted.entry(name), locked.entry(moved)
            back = chain.tensor_map(name).inverse.apply(
                locked.read(moved), two.shape, two.dtype, allow_non_finite=True
            )
            return name, _difference(wanted.read(name), one.dtype, back, two.dtype)

        budget = max(BUDGET, _COPIES * most + _BESIDE)
        run = Arena(budget).used()(compare)
        jobs = ((_COPIES * entry.size, partial(run, name)) for name, entry in entries.items())
        with closing(in_order(pool, jobs, budget)) as compared:
            for name, gap in compared:
                progress(entries[name].size)
                if gap is None:
                    identical += 1
                    continue
                if gap < float("inf"):
                    form = FORMATS[locked.entry(chain.destination(name)).dtype]
                    unit = max(unit, 2.0 ** -(form.mantissa + 1))
                if not gap <= largest:
                    largest, worst = gap, name
    tolerance = 0.0 if manifest.lossless else WEIGHT_UNITS * unit
    return WeightComparison(len(entries), identical, largest, worst, tolerance)


def _difference(want: Bytes, dtype: str, have: Bytes, other: str) -> float | None:
    """The distance of two stored tensors relative to the first's norm; None if they are identical.

    Infinite where a dtype has no numbers, or where some number is not finite.
    """
    pieces = range(0, len(want), _PIECE)
    if dtype == other and all(
        np.array_equal(want[at : at + _PIECE], have[at : at + _PIECE]) for at in pieces
    ):
        return None
    if not {dtype, other} <= FORMATS.keys():
        return float("inf")
    one, two = FORMATS[dtype], FORMATS[other]
    gap = scale = 0.0
    numbers = want.view(one.pattern), have.view(two.pattern)
    for start in range(0, len(numbers[0]), _PIECE):
        a, b = (piece[start : start + _PIECE] for piece in numbers)
        x, y = one.values(a.view(np.uint8)), two.values(b.view(np.uint8))
        gap += float(np.square(x - y).sum())
        scale += float(np.square(x).sum())
    distance = float(np.sqrt(gap) / (np.sqrt(scale) or 1.0))
    return float("inf") if np.isnan(distance) else distance
