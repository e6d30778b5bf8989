"""A suspect beside its base and the models that it may contain, matrix by matrix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unmergeable.attacks.align import align_tensors
from unmergeable.attacks.parts import place
from unmergeable.checkpoint.folder import open_folder
from unmergeable.checkpoint.hub import resolve
from unmergeable.checkpoint.reader import TensorReader
from unmergeable.defences.mark import scale_of
from unmergeable.errors import InputError
from unmergeable.gauge.floats import Float
from unmergeable.tracing.statistic import bounded, unexplained
from unmergeable.tracing.task_vectors import Carrier, ModelVectors, TaskVectors, task_vectors

# Of the base's norm: an expert that is further away is of another base. Fine-tuning leaves a few
# percent, of tiny models a third; models that have nothing in common are 1.4 apart.
UNRELATED = 0.7


@dataclass(frozen=True)
class Matrix:
    """One matrix of the layers, as vectors of its n numbers.

    Attributes:
        name: of the tensor.
        layer: its layer in a report: stack and number.
        difference: what the aligned suspect differs from the base by, with no wild numbers.
        share: of its numbers that are as they were found.
        expert: the task vector of the expert.
        siblings: by number, those of the siblings that have this matrix.
        twins: those of the twins.
        carrier: what takes one of these to the numbers that the mark is on; None if it is on them.
    """

    name: str
    layer: str
    difference: Float
    share: float
    expert: Float
    siblings: dict[int, Float]
    twins: list[Float]
    carrier: Carrier | None

    def rest(self, strength: float) -> tuple[Float, float, float]:
        """What is compared with the signs.

        Args:
            strength: of the mark.

        Returns:
            The numbers that a mark would be on, without what the expert and siblings explain; the
            size of the full mark in them; and the share of them that was not clipped.
        """
        carry = self.carrier or (lambda vector: vector)
        known = [carry(one) for one in (self.expert, *self.siblings.values())]
        size = strength * scale_of(known[0])
        rest = unexplained(carry(self.difference), known)
        if self.carrier is not None:  # each number is a sum over many: none is wild any longer
            return rest, size, self.share
        rest, share = bounded(rest, size)
        return rest, size, min(share, self.share)


class Comparison:
    """Aligns a suspect to the base and compares it with the expert and others.

    Args:
        suspect: the model in question, or an adapter of the base.
        base: the public base.
        original: the expert, or an adapter of the base.
        siblings: other fine-tunes or adapters of the base that the suspect may contain.
        twins: the expert, trained again.

    Attributes:
        release: the digest of the expert.
        skipped: matrices that some model lacks, or has in another shape or in no real numbers.
        distance: of the aligned suspect to the base, relative to the base's norm.

    Raises:
        InputError: a base that is not the expert's, or models of other architectures or widths.
        UnmergeableError: another of its kinds.
    """

    def __init__(
        self,
        suspect: str | Path,
        base: str | Path,
        original: str | Path,
        siblings: Sequence[str | Path] = (),
        twins: Sequence[str | Path] = (),
    ) -> None:
        self._base = open_folder(resolve(base))
        self._suspect, self._expert, *others = (
            task_vectors(one, self._base) for one in (suspect, original, *siblings, *twins)
        )
        self._siblings, self._twins = others[: len(siblings)], others[len(siblings) :]
        self._expert.layout.check_plain("traced")
        marked = self._expert.marked()
        for twin in self._twins:
            if lacking := [name for name in marked if not self._is_like(name, twin.shapes)]:
                raise InputError(
                    f"{twin.folder.path} has no {lacking[0]} of the expert's shape: it is no twin "
                    f"of {self._expert.folder.path}."
                )
        distance = None
        if isinstance(self._suspect, ModelVectors):
            aligned = align_tensors(self._suspect.folder, self._base)
            self._suspect, distance = (
                ModelVectors(self._suspect.folder, aligned.tensors),
                aligned.after,
            )
        both = (self._suspect.shapes, ModelVectors(self._base).shapes)
        self._names = [n for n in marked if all(self._is_like(n, one) for one in both)]
        self.skipped = tuple(sorted(set(marked) - set(self._names)))
        if not self._names:
            raise InputError(
                f"{self._suspect.folder.path} has no matrix in common with "
                f"{self._expert.folder.path}: it is of another architecture or width, or changes "
                "other layers, and nothing can be said about it."
            )
        self._check_base()
        self.distance = self._distance(self._suspect) if distance is None else distance
        with self._expert:
            self.release = self._expert.release()

    def matrices(self) -> Iterator[Matrix]:
        """Reads one matrix after the other; the memory is that of one in all models."""
        with ExitStack() as stack:
            anchor = stack.enter_context(TensorReader(self._base))
            for one in (self._suspect, self._expert, *self._siblings, *self._twins):
                stack.enter_context(one)
            for name in self._names:
                start = anchor.values(name)
                vector = self._expert.vector(name, start).reshape(-1)
                difference = self._suspect.vector(name, start).reshape(-1)
                yield Matrix(
                    name,
                    self._layer(name),
                    *bounded(difference, self._expert.tail * scale_of(vector)),
                    vector,
                    {
                        number: one.vector(name, start).reshape(-1)
                        for number, one in enumerate(self._siblings)
                        if self._is_like(name, one.shapes)
                    },
                    [one.vector(name, start).reshape(-1) for one in self._twins],
                    self._expert.carrier(name),
                )

    def _check_base(self) -> None:
        gap = self._distance(self._expert)
        if not gap <= UNRELATED:
            raise InputError(
                f"{self._expert.folder.path} is {gap:.0%} of the norm of {self._base.path} away "
                "from it; fine-tuning leaves a few percent. This is not its base, so nothing is "
                "said."
            )

    def _distance(self, vectors: TaskVectors) -> float:
        """Of the base, relative to its norm."""
        gap = norm = 0.0
        with TensorReader(self._base) as anchor, vectors:
            for name in self._names:
                start = anchor.values(name)
                gap += float(np.square(vectors.vector(name, start)).sum())
                norm += float(np.square(start).sum())
        return float(np.sqrt(gap / norm)) if norm else np.inf

    def _is_like(self, name: str, shapes: Mapping[str, tuple[int, ...]]) -> bool:
        return shapes.get(name) == self._expert.shapes.get(name, ())

    def _layer(self, name: str) -> str:
        at = place(self._expert.layout, name)
        return "" if at is None else f"{at[0]} {at[1]}"
