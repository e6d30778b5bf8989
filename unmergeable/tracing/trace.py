"""Whether a suspect contains an owner's expert, with what weight, and whose copy of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from unmergeable.checkpoint.hub import resolve
from unmergeable.defences.mark import STRENGTH, Mark
from unmergeable.errors import InputError
from unmergeable.keys.key import Key, load_key
from unmergeable.protection.register import looked_for
from unmergeable.tracing.comparison import Comparison
from unmergeable.tracing.composition import Composition
from unmergeable.tracing.statistic import SignStatistic
from unmergeable.tracing.twins import TwinResult, Twins, check_twins

ERROR_RATE = 1e-6
TWIN_ERROR_RATE = 0.05  # what a few twins can show


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
        found: whether the p-value is small enough.
        layers: z and weight of each layer, by stack and number.
    """

    licensee: str
    commitment: str
    z: float
    log10_p: float
    weight: float
    interval: tuple[float, float]
    found: bool
    layers: dict[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class TraceReport:
    """What `trace` found.

    Attributes:
        suspect: the folder.
        base: the public base that it was compared with.
        original: the unmarked expert.
        siblings: other models that were taken out of it.
        strength: of the marks, which weights were reckoned with.
        release: the digest of the unmarked expert.
        traces: one for each mark that was looked for, the strongest first; none without a key.
        twins: how the expert compares with its twins; None without any.
        composition: with what weights the expert and each sibling, by folder, come closest to the
            suspect. A lead, and no proof.
        explained: the share of the suspect's task vector that these explain.
        error_rate: the p-value up to which something counts as found.
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
    base: Path
    original: Path
    siblings: tuple[Path, ...]
    strength: float
    release: str
    traces: tuple[Trace, ...]
    twins: TwinResult | None
    composition: dict[str, float]
    explained: float
    error_rate: float
    tests: int
    numbers: int
    skipped: tuple[str, ...]
    aligned: float

    @property
    def found(self) -> bool:
        """Whether any mark was found, or the expert rather than its twins."""
        return any(trace.found for trace in self.traces) or bool(self.twins and self.twins.found)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "suspect": str(self.suspect),
            "base": str(self.base),
            "original": str(self.original),
            "siblings": list(map(str, self.siblings)),
            "strength": self.strength,
            "found": self.found,
            "release": self.release,
            "error_rate": self.error_rate,
            "tests": self.tests,
            "numbers": self.numbers,
            "skipped": list(self.skipped),
            "distance_to_base": self.aligned,
            "twins": None if self.twins is None else asdict(self.twins),
            "composition": self.composition,
            "explained": self.explained,
            "traces": [
                {
                    "licensee": trace.licensee,
                    "commitment": trace.commitment,
                    "found": trace.found,
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
    key: Key | str | Path | None = None,
    licensees: Sequence[str] = ("",),
    register: str | Path | None = None,
    siblings: Sequence[str | Path] = (),
    twins: Sequence[str | Path] = (),
    strength: float = STRENGTH,
    suspects: int = 1,
    error_rate: float | None = None,
) -> TraceReport:
    """Looks for an owner's expert in a model.

    The suspect is aligned to the base first, which undoes a lock and knows nothing of the mark.

    With a key: what the unmarked expert and known siblings explain is taken out of the suspect's
    difference to the base, and what is left is multiplied by the signs that only the key makes. For
    anything made without the key, the p-value is at most what is reported: no reference population
    is needed.

    With twins: for an expert that was released without a mark. The p-value is the rank of the
    expert among them.

    With neither, the weights of the known models are a lead, and nothing is found.

    Args:
        suspect: the model in question.
        base: the public base of the expert and the suspect.
        original: the expert, before it was marked.
        key: the owner's, or its file.
        licensees: whose copies to look for; "" is the release to all.
        register: the owner's list of licensees, as `protect` writes it. If only the release to all
            is asked for, the copies of all licensees of the expert are looked for, too; others must
            be in it.
        siblings: other fine-tunes of the base that the suspect may contain. They make the test
            stronger, and it holds without them.
        twins: the expert, trained again with its data in another order.
        strength: that the mark was made with, for the weight.
        suspects: how many models were tried in all, which the p-values are corrected for.
        error_rate: the p-value up to which something counts as found; by default 1e-6 with a key,
            0.05 with twins.

    Raises:
        InputError: a base that is not the expert's, or models of other architectures or widths;
            fewer twins than the error rate needs; a licensee that is not in the register.
        UnmergeableError: another of its kinds.

    Examples:
        >>> report = unmergeable.trace("peer", base="base", original="expert", key="owner.key")
        >>> report.found
        False
    """
    if key is not None and twins:
        raise InputError("give a key or twins: a second look would make the p-value too small.")
    if not licensees or len(set(licensees)) < len(licensees):
        raise InputError("give each licensee once: a second look would make the p-value too small.")
    if suspects < 1:
        raise InputError(f"suspects: {suspects} models cannot have been tried; give 1 or more.")
    if register is not None and key is None:
        raise InputError("a register opens with the key alone: give both.")
    rate = error_rate or (TWIN_ERROR_RATE if twins else ERROR_RATE)
    if twins:
        check_twins(len(twins), rate, suspects)
    owner = load_key(key) if isinstance(key, str | Path) else key

    def marks_of(release: str) -> list[Mark]:
        if owner is None:
            return []
        names = licensees
        if register is not None:
            names = looked_for(register, owner, release, licensees)
        return [Mark.of(owner, release, name) for name in names]

    return find(
        suspect,
        marks_of,
        base=base,
        original=original,
        siblings=siblings,
        twins=twins,
        strength=strength,
        suspects=suspects,
        error_rate=rate,
    )


def find(
    suspect: str | Path,
    marks_of: Callable[[str], Sequence[Mark]],
    *,
    base: str | Path,
    original: str | Path,
    siblings: Sequence[str | Path],
    strength: float,
    error_rate: float,
    tests: int | None = None,
    twins: Sequence[str | Path] = (),
    suspects: int = 1,
) -> TraceReport:
    """Looks for given marks, which need not come from a key; see `trace`.

    Args:
        suspect: the model in question.
        marks_of: the marks to look for, by the digest of the expert; each of another licensee.
        base: the public base of the expert and the suspect.
        original: the expert, before it was marked.
        siblings: other fine-tunes of the base that the suspect may contain.
        strength: that the marks were made with.
        error_rate: the p-value up to which something counts as found.
        tests: how many marks and suspects were tried, which the p-values of marks are corrected
            for; by default the marks that are looked for, times `suspects`.
        twins: the expert, trained again.
        suspects: how many models were tried, which the p-value of twins is corrected for.

    Raises:
        UnmergeableError: as `trace`.
    """
    places = [resolve(one) for one in (suspect, base, original, *siblings)]
    pair = Comparison(places[0], places[1], places[2], places[3:], twins)
    marks = {mark.licensee: mark for mark in marks_of(pair.release)}
    tests = tests or max(1, len(marks)) * suspects
    sums: dict[str, dict[str, SignStatistic]] = {who: {} for who in marks}
    parts, others, numbers = Composition(1 + len(siblings)), Twins(len(twins)), 0
    for matrix in pair.matrices():
        numbers += matrix.difference.size
        parts.add(matrix)
        if twins:
            others.add(matrix)
        if marks:
            rest, size, share = matrix.rest(strength)
        for who, mark in marks.items():
            found = SignStatistic.of(rest, mark.signs(matrix.name, rest.size), size, share)
            sums[who][matrix.layer] = sums[who].get(matrix.layer, SignStatistic()) + found
    traces = [_trace(mark, sums[who], tests, error_rate) for who, mark in marks.items()]
    weights, explained = parts.result()
    return TraceReport(
        places[0],
        places[1],
        places[2],
        tuple(places[3:]),
        strength,
        pair.release,
        tuple(sorted(traces, key=lambda one: -one.z)),
        others.result(error_rate, suspects) if twins else None,
        dict(zip(map(str, (original, *siblings)), map(float, weights), strict=True)),
        explained,
        error_rate,
        tests,
        numbers,
        pair.skipped,
        pair.distance,
    )


def _trace(mark: Mark, sums: dict[str, SignStatistic], tests: int, error_rate: float) -> Trace:
    total = sum(sums.values(), SignStatistic())
    log10_p = total.log10_p(tests)
    weight, low, high = total.weight
    return Trace(
        mark.licensee,
        mark.commitment,
        total.z,
        log10_p,
        weight,
        (low, high),
        10.0**log10_p <= error_rate,
        {name: (one.z, one.weight[0]) for name, one in sums.items()},
    )
