"""A protected model's weights, unlocked in memory, against the original's: one read of both."""

from __future__ import annotations

import math
from collections.abc import Iterator
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
from unmergeable.checkpoint.local_copy import is_away
from unmergeable.checkpoint.manifest import read_manifest
from unmergeable.checkpoint.reader import TensorReader
from unmergeable.checkpoint.rewrite import Advance
from unmergeable.checkpoint.row_parts import row_parts
from unmergeable.checkpoint.shards import BESIDE, BUDGET
from unmergeable.gauge.blas import one_thread
from unmergeable.gauge.floats import FORMATS
from unmergeable.gauge.memory import Arena, Bytes
from unmergeable.gauge.tensor_chain import TensorChain
from unmergeable.gauge.tensor_map import Change
from unmergeable.keys.key import Key, load_key
from unmergeable.machine import cores
from unmergeable.protection.protect import locked_chain
from unmergeable.verification.stored_distance import StoredDistance, stored_distance

# Weights that were rounded under a lock come back within a few units of rounding; under one that is
# ill-conditioned, within a few times what rounding costs there.
WEIGHT_UNITS = 8
_TIMES = 4


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
        not_finite: those that differ and cannot be compared, as the original's hold NaN or
            infinity.
    """

    tensors: int
    identical: int
    max_difference: float
    worst: str
    tolerance: float
    exceeded: tuple[str, ...]
    not_finite: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        """Whether every tensor came back."""
        return not self.exceeded and not self.not_finite


def compare_weights(
    original: ModelFolder,
    protected: ModelFolder,
    key: Key | str | Path,
    advance: Advance = lambda done: None,
) -> WeightComparison:
    """Unlocks tensor by tensor, on all processors, and compares.

    Args:
        original: the open model.
        protected: what was made of it.
        key: the owner's, or its file.
        advance: called with the bytes of each tensor just compared.

    Raises:
        UnmergeableError: another key, a damaged manifest or file.
    """
    key = key if isinstance(key, Key) else load_key(key)
    manifest = read_manifest(protected.path)
    layout = Layout.of_lock(protected.config, protected.shapes)
    chain = locked_chain(manifest, key, layout, protected)
    identical, largest, worst, tolerance = 0, 0.0, "", 0.0
    exceeded: list[str] = []
    not_finite: list[str] = []
    entries = protected.tensors
    away = is_away(original)
    most = max((entry.size for entry in entries.values()), default=0)
    with (
        one_thread(),  # tensors run side by side already
        TensorReader(original) as wanted,
        TensorReader(protected) as locked,
        ThreadPoolExecutor(cores()) as pool,
    ):

        def distance(name: str) -> tuple[str, StoredDistance, float]:
            """How far a tensor comes back from what it was, and how far it may."""
            moved = chain.destination(name)
            one, two = wanted.entry(name), locked.entry(moved)
            back = chain.tensor_map(name).inverse

            def unlocked() -> Iterator[Bytes]:
                for part in row_parts(two, back.rows_stay):
                    data = locked.part(part)
                    yield from back.pieces(data, part.shape, part.dtype, allow_non_finite=True)

            whole = wanted.read(name) if away else None  # each piece would be a request

            def piece(start: int, stop: int) -> Bytes:
                return wanted.piece(name, start, stop) if whole is None else whole[start:stop]

            far = stored_distance(piece, one.dtype, unlocked(), two.dtype)
            allowed = 0.0
            if far.relative not in (None, math.inf) and not manifest.lossless:
                unit = 2.0 ** -(FORMATS[two.dtype].mantissa + 1)
                allowed = WEIGHT_UNITS * unit
                if far.relative > allowed:
                    cost = _cost_of_rounding(back, locked.read(moved), two, unit)
                    allowed = max(allowed, _TIMES * cost / far.norm)
            return name, far, allowed

        copies = chain.copies + away
        budget = max(BUDGET, copies * most + BESIDE)
        run = Arena(budget).used()(distance)
        jobs = ((copies * entry.size, partial(run, name)) for name, entry in entries.items())
        with closing(in_order(pool, jobs, budget)) as distances:
            for name, far, allowed in distances:
                advance(entries[name].size)
                if far.relative is None:
                    identical += 1
                    continue
                if not manifest.lossless and not math.isfinite(far.norm):
                    not_finite.append(name)
                    continue
                tolerance = max(tolerance, allowed)
                if far.relative > allowed:
                    exceeded.append(name)
                if far.relative > largest:
                    largest, worst = far.relative, name
    return WeightComparison(
        len(entries), identical, largest, worst, tolerance, tuple(exceeded), tuple(not_finite)
    )


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
