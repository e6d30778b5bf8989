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
from unmergeable.checkpoint.header import TensorEntry
from unmergeable.checkpoint.in_order import in_order
from unmergeable.checkpoint.manifest import read_manifest
from unmergeable.checkpoint.reader import TensorReader
from unmergeable.checkpoint.rewrite import Progress
from unmergeable.checkpoint.shards import BESIDE, BUDGET
from unmergeable.gauge.floats import FORMATS
from unmergeable.gauge.tensor_chain import TensorChain
from unmergeable.gauge.tensor_map import Change
from unmergeable.keys import Key, load_key
from unmergeable.memory import Arena, Bytes
from unmergeable.protection import locked_chain

# Weights that were rounded under a lock come back within a few units of rounding; under one that is
# ill-conditioned, within a few times what rounding costs there.
WEIGHT_UNITS = 8
_TIMES = 4
# Tensors in memory for one comparison: both models', and what the key makes of the protected one.
_COPIES = 3
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
        tolerance: allowed `max_difference`: 0 for a lossless lock, else units of rounding, or what
            rounding costs under this lock in the tensor where it costs most.
        exceeded: the tensors that differ by more than rounding explains in them.
    """

    tensors: int
    identical: int
    max_difference: float
    worst: str
    tolerance: float
    exceeded: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether every tensor came back."""
        return not self.exceeded


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
    identical, largest, worst, tolerance = 0, 0.0, "", 0.0
    exceeded: list[str] = []
    entries = protected.tensors
    most = max((entry.size for entry in entries.values()), default=0)
    with (
        TensorReader(original) as wanted,
        TensorReader(protected) as locked,
        ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,
    ):

        def compare(name: str) -> tuple[str, float | None, float]:
            """A tensor's relative difference, None if there is none at all, and the allowed one."""
            moved = chain.destination(name)
            one, two = wanted.entry(name), locked.entry(moved)
            want, data, back = wanted.read(name), locked.read(moved), chain.tensor_map(name).inverse
            have = back.apply(data, two.shape, two.dtype, allow_non_finite=True)
            gap = _difference(want, one.dtype, have, two.dtype)
            allowed = 0.0
            if gap is not None and gap < float("inf") and not manifest.lossless:
                unit = 2.0 ** -(FORMATS[two.dtype].mantissa + 1)
                allowed = WEIGHT_UNITS * unit
                if gap > allowed:
                    cost = _cost_of_rounding(back, data, two, unit)
                    allowed = max(allowed, _TIMES * cost / _norm(want, one.dtype))
            return name, gap, allowed

        budget = max(BUDGET, _COPIES * most + BESIDE)
        run = Arena(budget).used()(compare)
        jobs = ((_COPIES * entry.size, partial(run, name)) for name, entry in entries.items())
        with closing(in_order(pool, jobs, budget)) as compared:
            for name, gap, allowed in compared:
                progress(entries[name].size)
                if gap is None:
                    identical += 1
                    continue
                tolerance = max(tolerance, allowed)
                if not gap <= allowed:
                    exceeded.append(name)
                if not gap <= largest:
                    largest, worst = gap, name
    return WeightComparison(len(entries), identical, largest, worst, tolerance, tuple(exceeded))


def _cost_of_rounding(
    back: Change | TensorChain, data: Bytes, entry: TensorEntry, unit: float
) -> float:
    """How far a stored tensor's numbers, each off by one unit at random, land from where they do.

    Args:
        back: takes the stored tensor to the original's coordinates.
        data: as stored.
        entry: its shape and dtype.
        unit: of rounding.

    Returns:
        The Frobenius norm of the distance.
    """
    errors = FORMATS[entry.dtype].values(data) * unit
    errors[np.random.default_rng(0).integers(0, 2, errors.shape, dtype=bool)] *= -1
    return float(np.linalg.norm(back(errors.reshape(entry.shape))))


def _norm(data: Bytes, dtype: str) -> float:
    return float(np.linalg.norm(FORMATS[dtype].values(data))) or 1.0


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
