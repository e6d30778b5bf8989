"""Verify: whether a protected model computes what the original computes.

Algebra is not trusted. Both models are loaded with stock transformers, in float32, and run on the
same text or images; their outputs are compared. With the key, the weights are compared as well.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unmergeable.attacks.rebuilt import is_rebuilt
from unmergeable.audit.runner import Outputs, run
from unmergeable.audit.weight_comparison import WeightComparison, compare_weights
from unmergeable.checkpoint.folder import MANIFEST, ModelFolder, open_folder
from unmergeable.checkpoint.hub import resolve
from unmergeable.checkpoint.manifest import read_manifest
from unmergeable.checkpoint.rewrite import Progress
from unmergeable.errors import InputError
from unmergeable.gauge.floats import FORMATS
from unmergeable.keys import Key
from unmergeable.running.offload import Offload, is_short

# The output difference allowed, root mean square, relative to the outputs; and, of the largest
# output, what a single one may be off by the order of sums. A lossless lock changes only that
# order; a general one moves each weight by up to half a unit of rounding.
EXACT_TOLERANCE = 1e-4
PEAK = 1e-3
UNITS_OF_ROUNDING = 16


@dataclass(frozen=True)
class OutputComparison:
    """The two models' outputs on the same inputs.

    Attributes:
        what: "logits" or "last_hidden_state".
        inputs: what they were run on, for people.
        values: how many output values were compared.
        scale: the largest absolute output of the original.
        max_difference: the largest absolute difference.
        mean_kl: mean Kullback-Leibler divergence of the protected from the original distribution,
            in nats; None where the outputs are not logits.
        top1_agreement: share of positions with the same most likely label; None likewise.
        rms_difference: root mean square of the differences, relative to that of the outputs.
        tolerance: allowed `rms_difference`, and `relative` too; but where it is finer than `PEAK`,
            a single output may be off by ten times as much, up to `PEAK`, since the order of sums
            in many layers is amplified for some tokens.
    """

    what: str
    inputs: str
    values: int
    scale: float
    max_difference: float
    mean_kl: float | None
    top1_agreement: float | None
    rms_difference: float
    tolerance: float

    @property
    def relative(self) -> float:
        """The largest difference relative to the scale."""
        return self.max_difference / self.scale if self.scale else self.max_difference

    @property
    def same(self) -> bool:
        """Whether the differences are within the tolerance; NaN never is."""
        worst = max(self.tolerance, min(10 * self.tolerance, PEAK))
        return bool(self.rms_difference <= self.tolerance and self.relative <= worst)


@dataclass(frozen=True)
class VerifyReport:
    """What `verify` found.

    Attributes:
        outputs: of the two models.
        weights: compared under the key; None without one.
        offloaded: whether layers that did not fit in memory were read from the disk in turn.
    """

    outputs: OutputComparison
    weights: WeightComparison | None
    offloaded: bool = False

    @property
    def same(self) -> bool:
        """The verdict."""
        return self.outputs.same and (self.weights is None or self.weights.same)


def verify(
    original: str | Path,
    protected: str | Path,
    *,
    key: Key | str | Path | None = None,
    text: str | Path | Sequence[str] | None = None,
    tolerance: float | None = None,
    offload: str | Path | None = None,
    memory: int | None = None,
    progress: Progress = lambda done: None,
) -> VerifyReport:
    """Compares a protected model with its original.

    Args:
        original: a model folder or Hub id.
        protected: its protected version.
        key: compares the weights too.
        text: prompts, or a file with one per line; default: built in. Image models get images.
        tolerance: allowed output difference, root mean square, relative to the outputs; default:
            1e-4 for a lossless lock and float32, more for a lock that rounded a narrower dtype.
        offload: a folder on a disk with room, from which layers are run that do not fit in memory;
            default: the system's temporary folder, if memory is short.
        memory: bytes of memory that weights may take; default: what is free. Offloads.
        progress: called with the bytes of each model just run or tensor just compared.

    Raises:
        UnmergeableError: a folder or key that cannot be used; models of different shapes.
    """
    folders = [open_folder(resolve(model)) for model in (original, protected)]
    first, second = folders
    manifest = read_manifest(second.path) if (second.path / MANIFEST).exists() else None
    rebuilt = is_rebuilt(second)
    if first.shapes != second.shapes and not (rebuilt and manifest is not None):
        names = first.shapes.items() ^ second.shapes.items()
        raise InputError(
            f"{first.path} and {second.path} are not the same model: they differ in the shape or "
            f"presence of {min(name for name, _ in names)!r}."
        )
    weights = None
    if key is not None:
        if rebuilt:
            raise InputError(
                f"the weights of {second.path} cannot be compared under a key: "
                f"{second.config['architectures'][0]} is another architecture than the original's, "
                "and no key undoes that. Leave the key out to compare outputs."
            )
        weights = compare_weights(first, second, key, progress)
    if tolerance is None:
        lossless = manifest is not None and manifest.lossless
        tolerance = EXACT_TOLERANCE if lossless else max(EXACT_TOLERANCE, _rounding(second))
    prompts = _prompts(text)
    offloads = offload is not None or memory is not None or is_short(first.shapes)
    found = []
    for folder in folders:
        with ExitStack() as stack:
            how = None
            if offloads:
                scratch = stack.enter_context(_scratch(offload))
                how = Offload(Path(scratch), memory)
            found.append(run(folder.local, first.local, folder.config, prompts, how))
        progress(folder.size)
    before, after = found
    return VerifyReport(_compare_outputs(before, after, tolerance), weights, offloads)


def _scratch(folder: str | Path | None) -> tempfile.TemporaryDirectory[str]:
    """A folder that goes when it is no longer needed.

    Raises:
        InputError: a place that cannot be written.
    """
    try:
        return tempfile.TemporaryDirectory(prefix="unmergeable-", dir=folder)
    except OSError as error:
        raise InputError(f"cannot write into {folder}: {error.strerror}.") from None


def _prompts(text: str | Path | Sequence[str] | None) -> Sequence[str] | None:
    if text is None or not isinstance(text, str | Path):
        return text
    try:
        lines = [line for line in Path(text).read_text("utf-8").splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the prompts in {text}: {error}.") from None
    if not lines:
        raise InputError(f"{text} has no line of text.")
    return lines


def _rounding(folder: ModelFolder) -> float:
    """The widest unit of rounding among a folder's dtypes, times the allowance."""
    formats = [FORMATS[e.dtype] for e in folder.tensors.values() if e.dtype in FORMATS]
    return UNITS_OF_ROUNDING * max((2.0 ** -(form.mantissa + 1) for form in formats), default=0.0)


def _compare_outputs(one: Outputs, two: Outputs, tolerance: float) -> OutputComparison:
    difference = scale = kl = gaps = power = 0.0
    agreed = rows = values = 0
    for a, b in zip(one.rows, two.rows, strict=True):
        a, b = a.astype(np.float64), b.astype(np.float64)
        gap = np.abs(a - b).max()
        difference = gap if np.isnan(gap) else max(difference, float(gap))
        scale = max(scale, float(np.abs(a).max()))
        gaps += float(((a - b) ** 2).sum())
        power += float((a**2).sum())
        values += a.size
        rows += len(a)
        if one.is_logits:
            p, q = _log_softmax(a), _log_softmax(b)
            kl += float((np.exp(p) * (p - q)).sum())
            agreed += int((a.argmax(-1) == b.argmax(-1)).sum())
    return OutputComparison(
        one.what,
        one.inputs,
        values,
        scale,
        float(difference),
        float(np.maximum(0.0, kl / rows)) if one.is_logits else None,
        agreed / rows if one.is_logits else None,
        float(np.sqrt(gaps / power)) if power else float(np.sqrt(gaps)),
        tolerance,
    )


def _log_softmax(logits: Any) -> Any:
    with np.errstate(invalid="ignore"):  # of infinities: NaN is the right answer
        shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
