"""Whether a suspect contains a marked expert, with what weight, and whose copy of it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from unmergeable.architectures.layout import Layout
from unmergeable.attacks.align import align_tensors
from unmergeable.attacks.parts import place
from unmergeable.checkpoint.folder import ModelFolder, open_folder
from unmergeable.checkpoint.hub import resolve
from unmergeable.checkpoint.reader import TensorReader
from unmergeable.defences.mark import STRENGTH, Mark, is_marked, release_of, scale_of
from unmergeable.errors import InputError
from unmergeable.gauge.floats import FORMATS
from unmergeable.keys.key import Key, load_key
from unmergeable.tracing.statistic import Evidence, bounded, unexplained

ERROR_RATE = 1e-6
# Of the base's norm: an expert that is further away is of another base. Fine-tuning leaves a few
# percent, of tiny models a third; models that have nothing in common are 1.4 apart.
UNRELATED = 0.7


@dataclass(frozen=True)
class Trace:
    """What was found of one mark.

    Attributes:
        licensee: whose copy; empty for the release to all.
        commitment: of the mark, as its manifest has it.
        z: standard deviations above chance.
        log10_p: decimal logarithm of the p-value, corrected for all marks and suspects tried.
        weight: with what weight the expert is inside.
        interval: 95 %, of the weight.
        layers: z and weight of each layer, by stack and number.
    """

    licensee: str
    commitment: str
    z: float
    log10_p: float
    weight: float
    interval: tuple[float, float]
    layers: dict[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class TraceReport:
    """What `trace` found.

    Attributes:
        suspect: the folder.
        release: the digest of the unmarked expert.
        traces: one for each mark that was looked for, the strongest first.
        error_rate: the p-value up to which a mark counts as found.
        tests: marks times suspects, which p-values are corrected for.
        numbers: weights that were looked at.
        skipped: matrices of layers that could not be compared.
        aligned: distance of the aligned suspect to the base, relative to the base's norm.

    Examples:
        >>> settings = {"licensee": "alice"}
        >>> copy = unmergeable.protect(
        ...     "expert", "copy", "owner.key", defence="mark", settings=settings, base="base"
        ... )
        >>> report = unmergeable.trace(
        ...     copy.out, base="base", original="expert", key="owner.key", licensees=["alice"]
        ... )
        >>> report.traces[0].licensee
        'alice'
    """

    suspect: Path
    release: str
    traces: tuple[Trace, ...]
    error_rate: float
    tests: int
    numbers: int
    skipped: tuple[str, ...]
    aligned: float

    @property
    def found(self) -> bool:
        """Whether any mark was found."""
        return any(10.0**trace.log10_p <= self.error_rate for trace in self.traces)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "suspect": str(self.suspect),
            "found": self.found,
            "release": self.release,
            "error_rate": self.error_rate,
            "tests": self.tests,
            "numbers": self.numbers,
            "skipped": list(self.skipped),
            "distance_to_base": self.aligned,
            "traces": [
                {
                    "licensee": trace.licensee,
                    "commitment": trace.commitment,
                    "found": 10.0**trace.log10_p <= self.error_rate,
                    "z": trace.z,
                    "log10_p": trace.log10_p,
                    "weight": trace.weight,
                    "interval": list(trace.interval),
                    "layers": {
                        name: {"z": z, "weight": weight}
                        for name, (z, weight) in trace.layers.items()
                    },
                }
                for trace in self.traces
            ],
        }


def trace(
    suspect: str | Path,
    *,
    base: str | Path,
    original: str | Path,
    key: Key | str | Path,
    licensees: Sequence[str] = ("",),
    siblings: Sequence[str | Path] = (),
    strength: float = STRENGTH,
    suspects: int = 1,
    error_rate: float = ERROR_RATE,
) -> TraceReport:
    """Looks for an owner's marks in a model.

    The suspect is aligned to the base first, which undoes a lock and knows nothing of the mark.
    What the unmarked expert and known siblings explain is taken out of its difference to the base.
    What is left is multiplied by the signs that only the key makes. For whatever was made without
    the key, the p-value is at most what is reported: no reference population is needed.

    Args:
        suspect: the model in question.
        base: the public base of the expert and the suspect.
        original: the expert before it was marked.
        key: the owner's, or its file.
        licensees: whose copies to look for; "" is the release to all.
        siblings: other fine-tunes of the base that the suspect may contain. They make the test
            stronger, and it holds without them.
        strength: that the mark was made with, for the weight.
        suspects: how many models were tried in all, which the p-values are corrected for.
        error_rate: the p-value up to which a mark counts as found.

    Raises:
        InputError: a base that is not the expert's, or models of other architectures or widths.
        UnmergeableError: another of its kinds.

    Examples:
        >>> report = unmergeable.trace("peer", base="base", original="expert", key="owner.key")
        >>> report.found
        False
    """
    key = key if isinstance(key, Key) else load_key(key)
    if not licensees or len(set(licensees)) < len(licensees):
        raise InputError("give each licensee once: a second look would make the p-value too small.")
    if suspects < 1:
        raise InputError(f"suspects: {suspects} models cannot have been tried; give 1 or more.")
    places = (suspect, base, original, *siblings)
    model, anchor, expert, *others = [open_folder(resolve(one)) for one in places]
    layout = Layout.of_folder(expert)
    layout.check_plain("traced")
    aligned = align_tensors(model, anchor)
    names, skipped = _comparable(layout, expert, [model, anchor])
    if not names:
        raise InputError(
            f"{model.path} has no matrix in common with {expert.path}: it is of another "
            "architecture or width, and nothing can be said about it."
        )
    with ExitStack() as stack:
        reference, known, *further = [
            stack.enter_context(TensorReader(one)) for one in (anchor, expert, *others)
        ]
        _check_base(names, reference, known)
        release = release_of(expert, layout, known)
        marks = {who: Mark(Mark.secret_of(key, release, who)) for who in licensees}
        sums: dict[str, dict[str, Evidence]] = {who: {} for who in licensees}
        for name in names:
            start = reference.values(name).reshape(-1)
            vectors = [
                reader.values(name).reshape(-1) - start
                for reader in (known, *further)
                if name in reader and reader.entry(name).shape == expert.shapes[name]
            ]
            stored = FORMATS[model.tensors[name].dtype].values(aligned.tensors[name])
            rest = bounded(unexplained(bounded(stored - start), vectors))
            layer, size = _layer(layout, name), strength * scale_of(vectors[0])
            for who, mark in marks.items():
                found = Evidence.of(rest, mark.signs(name, rest.size), size)
                sums[who][layer] = sums[who].get(layer, Evidence()) + found
    tests = len(licensees) * suspects
    traces = [_trace(who, marks[who], sums[who], tests) for who in licensees]
    return TraceReport(
        Path(suspect),
        release,
        tuple(sorted(traces, key=lambda one: -one.z)),
        error_rate,
        tests,
        sum(one.count for one in sums[licensees[0]].values()),
        tuple(skipped),
        aligned.after,
    )


def _check_base(names: Sequence[str], base: TensorReader, expert: TensorReader) -> None:
    """Refuses a base that is not the expert's, before anything is said about a suspect."""
    gap = norm = 0.0
    for name in names:
        start = base.values(name)
        gap += float(np.square(expert.values(name) - start).sum())
        norm += float(np.square(start).sum())
    if not gap <= UNRELATED**2 * norm:
        raise InputError(
            f"{expert.folder.path} is {np.sqrt(gap / norm):.0%} of the norm of {base.folder.path} "
            "away from it; fine-tuning leaves a few percent. This is not its base, so nothing is "
            "said."
        )


def _trace(who: str, mark: Mark, sums: dict[str, Evidence], tests: int) -> Trace:
    total = sum(sums.values(), Evidence())
    weight, low, high = total.weight
    return Trace(
        who,
        mark.commitment,
        total.z,
        total.log10_p(tests),
        weight,
        (low, high),
        {name: (one.z, one.weight[0]) for name, one in sums.items()},
    )


def _comparable(
    layout: Layout, expert: ModelFolder, others: Sequence[ModelFolder]
) -> tuple[list[str], list[str]]:
    """The marked matrices that all models have in one shape, and those that some lack."""
    marked = [name for name, entry in sorted(expert.tensors.items()) if is_marked(layout, entry)]

    def is_like(name: str, other: ModelFolder) -> bool:
        entry = other.tensors.get(name)
        alike = entry is not None and entry.shape == expert.shapes[name]
        return alike and entry is not None and entry.dtype in FORMATS

    common = [name for name in marked if all(is_like(name, other) for other in others)]
    return common, [name for name in marked if name not in set(common)]


def _layer(layout: Layout, name: str) -> str:
    """A layer's name in the report: its stack and number."""
    at = place(layout, name)
    return "" if at is None else f"{at[0]} {at[1]}"
