"""A suspect beside its base and the models that it may contain, matrix by matrix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unmergeable.architectures.layout import Layout
from unmergeable.attacks.align import align_tensors
from unmergeable.attacks.parts import place
from unmergeable.checkpoint.folder import ModelFolder, open_folder
from unmergeable.checkpoint.hub import resolve
from unmergeable.checkpoint.reader import TensorReader
from unmergeable.defences.mark import is_marked, release_of, scale_of
from unmergeable.errors import InputError
from unmergeable.gauge.floats import FORMATS, Float
from unmergeable.tracing.statistic import bounded

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
    """

    name: str
    layer: str
    difference: Float
    share: float
    expert: Float
    siblings: dict[int, Float]
    twins: list[Float]

    @property
    def known(self) -> list[Float]:
        """The task vectors of the expert and its siblings."""
        return [self.expert, *self.siblings.values()]


class Comparison:
    """Aligns a suspect to the base and compares it with the expert and others.

    Args:
        suspect: the model in question.
        base: the public base.
        original: the expert.
        siblings: other fine-tunes of the base that the suspect may contain.
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
        self._suspect, self._base, self._expert = (
            open_folder(resolve(one)) for one in (suspect, base, original)
        )
        self._siblings = [open_folder(resolve(one)) for one in siblings]
        self._twins = [open_folder(resolve(one)) for one in twins]
        self._layout = Layout.of_folder(self._expert)
        self._layout.check_plain("traced")
        marked = [n for n, entry in self._expert.tensors.items() if is_marked(self._layout, entry)]
        for twin in self._twins:
            if lacking := [name for name in sorted(marked) if not self._is_like(name, twin)]:
                raise InputError(
                    f"{twin.path} has no {lacking[0]} of the expert's shape: it is no twin of "
                    f"{self._expert.path}."
                )
        aligned = align_tensors(self._suspect, self._base)
        both = (self._suspect, self._base)
        self._names = [n for n in sorted(marked) if all(self._is_like(n, one) for one in both)]
        self.skipped = tuple(sorted(set(marked) - set(self._names)))
        self._tensors, self.distance = aligned.tensors, aligned.after
        if not self._names:
            raise InputError(
                f"{self._suspect.path} has no matrix in common with {self._expert.path}: it is of "
                "another architecture or width, and nothing can be said about it."
            )
        with TensorReader(self._expert) as expert, TensorReader(self._base) as anchor:
            self._check_base(anchor, expert)
            self.release = release_of(self._expert, self._layout, expert)

    def matrices(self) -> Iterator[Matrix]:
        """Reads one matrix after the other; the memory is that of one in all models."""
        with ExitStack() as stack:
            anchor, expert, *others = [
                stack.enter_context(TensorReader(one))
                for one in (self._base, self._expert, *self._siblings, *self._twins)
            ]
            siblings, twins = others[: len(self._siblings)], others[len(self._siblings) :]
            for name in self._names:
                start = anchor.values(name).reshape(-1)
                vector = expert.values(name).reshape(-1) - start
                stored = FORMATS[self._suspect.tensors[name].dtype].values(self._tensors[name])
                yield Matrix(
                    name,
                    self._layer(name),
                    *bounded(stored - start, scale_of(vector)),
                    vector,
                    {
                        number: reader.values(name).reshape(-1) - start
                        for number, reader in enumerate(siblings)
                        if self._is_like(name, self._siblings[number])
                    },
                    [reader.values(name).reshape(-1) - start for reader in twins],
                )

    def _check_base(self, anchor: TensorReader, expert: TensorReader) -> None:
        gap = norm = 0.0
        for name in self._names:
            start = anchor.values(name)
            gap += float(np.square(expert.values(name) - start).sum())
            norm += float(np.square(start).sum())
        if not gap <= UNRELATED**2 * norm:
            raise InputError(
                f"{self._expert.path} is {np.sqrt(gap / norm):.0%} of the norm of "
                f"{self._base.path} away from it; fine-tuning leaves a few percent. This is not "
                "its base, so nothing is said."
            )

    def _is_like(self, name: str, other: ModelFolder) -> bool:
        entry = other.tensors.get(name)
        if entry is None or entry.dtype not in FORMATS:
            return False
        return entry.shape == self._expert.shapes[name]

    def _layer(self, name: str) -> str:
        at = place(self._layout, name)
        return "" if at is None else f"{at[0]} {at[1]}"
