"""The model of cost that `scale_model.py` fits; `docs/scale.md` explains it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from llama_shapes import layer_shapes

from unmergeable.checkpoint.shards import BESIDE, BUDGET

HEAD = 128
TASK = 4  # processors that a task of a cluster asks for


class Shape(NamedTuple):
    """A dense model: width, heads, groups of heads, feed-forward width, layers, words."""

    hidden: int
    heads: int
    groups: int
    ffn: int
    layers: int
    words: int

    @property
    def weights(self) -> int:
        """How many."""
        return int(sum(self.tensors) / 2)

    @property
    def tensors(self) -> list[float]:
        """The bytes of each."""
        layer = layer_shapes(self.hidden, self.heads, self.groups, HEAD, self.ffn)
        sizes = [2.0 * int(np.prod(shape)) for shape in layer.values()] * self.layers
        return [*sizes, *[2.0 * self.words * self.hidden] * 2]

    @property
    def memory(self) -> float:
        """Bytes of tensors that one run, or one task of a cluster, holds at most."""
        return max(BUDGET, self.largest + BESIDE)

    def abreast(self, threads: int) -> float:
        """How many tensors are made at once, on average over their bytes: memory bounds it."""
        ways = [max(1, min(threads, self.memory // size)) for size in self.tensors]
        return sum(self.tensors) / sum(x / n for x, n in zip(self.tensors, ways, strict=True))

    @property
    def gigabytes(self) -> float:
        """In 16 bits a weight."""
        return 2 * self.weights / 1e9

    @property
    def gigaflops(self) -> float:
        """Of the general lock: each weight of values and outputs meets a block of a head's size."""
        return self.layers * general_flops(self.hidden, self.heads, self.groups) / 1e9

    @property
    def largest(self) -> float:
        """Bytes of the largest tensor."""
        return max(self.tensors)


MODELS = {
    "70B": Shape(8192, 64, 8, 28672, 80, 128256),
    "405B": Shape(16384, 128, 8, 53248, 126, 128256),
    "1T (shape assumed)": Shape(24576, 192, 8, 65536, 164, 128256),
}


@dataclass(frozen=True)
class Machine:
    """What is known, or assumed, of a machine.

    Attributes:
        name: for people.
        processors: as fast as one here.
        disk: seconds that reading and writing a GB take at least, overlapped.
        machines: how many.
        store: the same seconds of a store that all machines share; 0 if each has its own share.
    """

    name: str
    processors: int
    disk: float
    machines: int = 1
    store: float = 0.0


class Run(NamedTuple):
    """One measured run: its inputs, then seconds."""

    kind: str
    workers: int
    gigabytes: float
    gigaflops: float
    wall: float
    cpu: float


@dataclass(frozen=True)
class Fit:
    """The model's figures.

    Attributes:
        start: seconds of any run.
        per_gb: processor seconds a GB: reading, hashing, moving, writing.
        per_gigaflop: processor seconds a GFLOP of blocks, conversion to float64 included.
        share: of the processors' time that N threads turn into progress, by N.
        disk: seconds a GB of a plain write past the page cache, until synced.
    """

    start: float
    per_gb: float
    per_gigaflop: float
    share: dict[int, float]
    disk: float

    def work(self, gigabytes: float, gigaflops: float) -> float:
        """Processor seconds beyond the start."""
        return self.per_gb * gigabytes + self.per_gigaflop * gigaflops

    def wall(self, workers: int, gigabytes: float, gigaflops: float) -> float:
        """Seconds on this machine."""
        share = self.share.get(workers, self.share[max(self.share)])
        busy = self.work(gigabytes, gigaflops) / (workers * share)
        return self.start + max(busy, gigabytes * self.disk)


def general_flops(hidden: int, heads: int, groups: int) -> float:
    """Of one layer: two operations a weight and row of the block, for v_proj and o_proj."""
    return 2.0 * HEAD * HEAD * hidden * (groups + heads)


def fit(runs: list[Run], writes: list[tuple[float, float]]) -> Fit:
    """Least squares for the processor seconds; the rest from wall times, given those."""
    rows = np.array([[1.0, run.gigabytes, run.gigaflops] for run in runs])
    cpu = np.array([run.cpu for run in runs])
    # Relative errors count, so that large runs do not drown small ones.
    start, per_gb, per_gigaflop = np.linalg.lstsq(rows / cpu[:, None], cpu / cpu, rcond=None)[0]
    start = max(float(start), 0.0)
    share = {}
    for workers in sorted({run.workers for run in runs}):
        shares = [
            (per_gb * run.gigabytes + per_gigaflop * run.gigaflops) / (run.wall - start) / workers
            for run in runs
            if run.workers == workers
        ]
        share[workers] = float(np.median(shares))
    disk = float(np.polyfit(*zip(*writes, strict=True), 1)[0])  # without what any write takes
    return Fit(start, float(per_gb), float(per_gigaflop), share, disk)


def errors(fitted: Fit, runs: list[Run]) -> list[float]:
    """Predicted over measured wall time, minus one, for each run."""
    return [fitted.wall(r.workers, r.gigabytes, r.gigaflops) / r.wall - 1 for r in runs]


def predicted(fitted: Fit, model: Shape, kind: str, machine: Machine) -> float:
    """Seconds for a model on machines."""
    gigaflops = model.gigaflops if kind == "general" else 0.0
    here = model.gigabytes / machine.machines
    # Threads share the memory of one run; a cluster's tasks have it each.
    threads = min(TASK, machine.processors) if machine.machines > 1 else machine.processors
    ways = machine.processors // threads * model.abreast(threads)
    share = fitted.share[max(fitted.share)]
    busy = fitted.work(here, gigaflops / machine.machines) / (ways * share)
    store = model.gigabytes * machine.store
    return fitted.start + max(busy, here * machine.disk, store)
