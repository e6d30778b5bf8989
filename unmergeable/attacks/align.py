"""Align: brings a locked model back to its public base's coordinates, without key and without data.

The attack reads the same declarations as the lock. Space by space it fits what brings the protected
tensors closest to the base's: `alignment.engine` says in which order, `alignment.full` how, and the
other files of `alignment` how published attacks do it.

Price: seconds, no data. Any clean sibling of the model serves as the anchor. Source: ours; heads by
gauge invariants in the spirit of TransFusion (arXiv 2505.22697), permutations by weight matching
(Git Re-Basin, arXiv 2209.04836), dense blocks by paired gauge-fixing.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from unmergeable.architectures.layout import Layout
from unmergeable.attacks.alignment.distances import cast, distances
from unmergeable.attacks.alignment.fitted import Fitted
from unmergeable.attacks.alignment.method import Method
from unmergeable.attacks.alignment.methods import method_named
from unmergeable.attacks.alignment.pairing import Shape, shared_tensors
from unmergeable.attacks.rebuilt import as_stock
from unmergeable.checkpoint.companions import copy_companions
from unmergeable.checkpoint.folder import ModelFolder, open_folder
from unmergeable.checkpoint.header import TensorEntry
from unmergeable.checkpoint.hub import resolve
from unmergeable.checkpoint.reader import TensorReader
from unmergeable.checkpoint.rewrite import rewrite
from unmergeable.checkpoint.staging import Staging
from unmergeable.executors.executor import Advance
from unmergeable.gauge.blas import one_thread
from unmergeable.gauge.floats import FORMATS
from unmergeable.gauge.memory import Bytes
from unmergeable.machine import cores
from unmergeable.progress import Counter, Progress, silent

# Fine-tuning moves weights by a few percent of their norm. Alignment to a wrong base of the right
# shapes leaves more than their whole norm, and scales that a method cannot undo about half of it.
FAR = 0.3


@dataclass(frozen=True)
class Aligned:
    """What every alignment reports.

    Attributes:
        method: its name.
        before: distance of the protected weights to the base's, relative to the base's (Frobenius),
            over the tensors that both have. A lock puts it near 1.4, or above.
        after: the same of the aligned weights. Fine-tuning alone puts it far below 0.1.
        seconds: wall time, of writing too where a folder was written.
        fit_seconds: of these, until every space was fitted: reading headers and weights included.
        parameters: number of weights of the protected model.
    """

    method: str
    before: float
    after: float
    seconds: float
    fit_seconds: float
    parameters: int

    @property
    def suspicious(self) -> bool:
        """Whether the aligned weights are too far from the base's for a fine-tune of it (> 0.3).

        Then the base is not this model's, or it is protected by more than this method undoes. The
        reverse does not hold: methods that copy from the base come near any base.
        """
        return not self.after <= FAR

    @property
    def explanation(self) -> str:
        """A sentence for people on what `suspicious` means here; empty if it does not apply."""
        if not self.suspicious:
            return ""
        return (
            f"After alignment the weights are still {self.after:.0%} of the base's norm away from "
            f"the base's: fine-tuning leaves a few percent, {FAR:.0%} is too far. "
            "Either the base is not this model's, or the model is protected by something that the "
            f"method {self.method!r} does not undo."
        )


@dataclass(frozen=True)
class AlignReport(Aligned):
    """What `align` did.

    Attributes:
        out: the aligned folder.

    Examples:
        >>> unmergeable.align("locked", "moved-back", "base").suspicious
        False
    """

    out: Path


@dataclass(frozen=True)
class AlignedTensors(Aligned):
    """What `align_tensors` did.

    Attributes:
        tensors: the bytes of every tensor by name, shape (nbytes,) each, in the protected folder's
            dtypes.
    """

    tensors: dict[str, Bytes]


def align(
    protected: str | Path,
    out: str | Path,
    base: str | Path,
    *,
    method: str = "full",
    progress: Progress = silent,
) -> AlignReport:
    """Writes a protected model in its base's coordinates.

    Args:
        protected: the model under attack; its manifest is not read. One whose architecture a
            defence changed is made a stock model first: see `attacks.unfold`.
        out: the folder to make; absent or empty.
        base: the public base, or any clean sibling.
        method: a name in `attacks.alignment.methods.METHODS`.
        progress: is told how far it is; every byte counts twice, fitted and written.

    Raises:
        InputError: no such method, or models that differ in more than their interfaces, such as the
            number of words or labels; there they are compared where both have something.
        UnmergeableError: another of its kinds.

    Examples:
        >>> report = unmergeable.align("locked", "aligned", base="base")
        >>> report.after < report.before
        True
    """
    anchor, start = open_folder(resolve(base)), time.perf_counter()
    with as_stock(open_folder(resolve(protected)), anchor) as target:
        advance = Counter(progress, "aligning", 2 * target.tensor_bytes)
        with _fitted(target, anchor, method, advance, start) as work:
            with Staging(out, None) as staging:
                rewrite(target, staging, work.recover, source=work.source, advance=advance)
                copy_companions(target, staging, target.companions)
                staging.publish()
            return AlignReport(*work.figures(), staging.out)


def align_tensors(
    protected: ModelFolder,
    base: ModelFolder,
    *,
    method: str = "full",
    progress: Progress = silent,
) -> AlignedTensors:
    """Aligns as `align` does, in memory: nothing is written.

    Args:
        protected: the model under attack, as `open_folder` returns it; its manifest is not read.
        base: the public base, or any clean sibling.
        method: a name in `attacks.alignment.methods.METHODS`.
        progress: is told how far it is; every byte counts twice, fitted and moved.

    Raises:
        UnmergeableError: as `align` does.
    """
    start = time.perf_counter()
    advance = Counter(progress, "aligning", 2 * protected.tensor_bytes)
    with (
        _fitted(protected, base, method, advance, start) as work,
        TensorReader(protected) as reader,
    ):

        def job(name: str) -> tuple[str, Bytes]:
            source = work.source(name)
            return name, work.recover(reader.entry(source), reader.read(source))

        tensors = {}
        with ThreadPoolExecutor(cores()) as pool:
            for name, data in pool.map(job, protected.tensors):
                tensors[name] = data
                advance(data.nbytes)
        return AlignedTensors(*work.figures(), tensors)


@contextmanager
def _fitted(
    protected: ModelFolder, base: ModelFolder, method: str, advance: Advance, start: float
) -> Iterator[_Recovery]:
    """Fits a model; what it yields can then move its tensors, in any order and from any thread."""
    chosen = method_named(method)
    layout = Layout.of_folder(protected)
    layout.check_plain("aligned")
    shapes = shared_tensors(layout, protected, base)
    with TensorReader(protected) as moved, TensorReader(base) as anchor, one_thread():
        gauge = chosen.fit(layout, moved, anchor, shapes, advance)
        yield _Recovery(chosen, layout, gauge, protected, anchor, shapes, start)


class _Recovery:
    """Moves a model's tensors by what was fitted, and measures how near they come."""

    def __init__(
        self,
        method: Method,
        layout: Layout,
        gauge: Fitted,
        protected: ModelFolder,
        anchor: TensorReader,
        shapes: Mapping[str, Shape],
        start: float,
    ) -> None:
        self._method, self._layout, self._gauge = method, layout, gauge
        self._anchor, self._shapes = anchor, shapes
        self._start, self._fitted = start, time.perf_counter()
        self._parameters = sum(math.prod(shape) for shape in protected.shapes.values())
        self._squares = np.zeros(3)
        self._guard = threading.Lock()

    def source(self, name: str) -> str:
        """The protected tensor that belongs where the base has the tensor of that name."""
        return self._layout.source(name, self._gauge)

    def recover(self, entry: TensorEntry, data: Bytes) -> Bytes:
        """The aligned bytes of one tensor of the protected model."""
        name = self._layout.destination(entry.name, self._gauge)
        shape = self._shapes.get(name)
        if shape is None:
            return self._method.recover(self._layout, self._gauge, entry, data, None)
        whole = shape == entry.shape == self._anchor.entry(name).shape
        anchor = partial(self._anchored, name, entry.dtype) if whole else None
        out = self._method.recover(self._layout, self._gauge, entry, data, anchor)
        if {entry.dtype, self._anchor.entry(name).dtype} <= FORMATS.keys():
            found = distances(self._anchor, entry, name, shape, data, out)
            with self._guard:
                self._squares += found
        return out

    def _anchored(self, name: str, dtype: str) -> Bytes:
        """A tensor of the base in the protected one's dtype."""
        return cast(self._anchor.read(name), self._anchor.entry(name).dtype, dtype)

    def figures(self) -> tuple[str, float, float, float, float, int]:
        """The fields of `Aligned`, in order."""
        before, after = np.sqrt(self._squares[:2] / max(self._squares[2], 1e-300))
        seconds = time.perf_counter() - self._start
        name, fitted = self._method.name, self._fitted - self._start
        return name, float(before), float(after), seconds, fitted, self._parameters
