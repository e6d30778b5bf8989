"""The outputs of two models on the same inputs, and how far they may be apart.

Everything follows from one tolerance, t: the root mean square of the differences, relative to that
of the outputs. A lossless lock changes only the order of sums: t is `EXACT_TOLERANCE`. A general
lock moves each weight by up to half a unit of rounding of the original's dtype: t is
`UNITS_OF_ROUNDING` such units, the mean over all numbers of the model, and at most `MOST`. No lock
rounds float8, so float8 counts as nothing.

- The differences must be at most t of the outputs.
- A model that has nothing but the mean right is not the same. Without each position's mean, logits
  may differ by t of what is left. Of other outputs, rounding costs the same whether they vary or
  not: without each value's mean over all positions, they may differ by `VARYING_TIMES` t of what is
  left, and at most by `VARYING_MOST` of it, or t if more was asked for.
- No single output may be off by more than t of the largest; or, where t is finer than `PEAK`, by
  ten times that, up to `PEAK`, since the order of sums in many layers is amplified for some tokens.
  Some amplify it more: an output may also be off by `ROUNDING_TIMES` what float32 makes of the
  original's own outputs on these inputs, against float64, up to `PEAK_MOST`.
- Logits without their mean have a root mean square s. Logits that are off by t s at random diverge
  by (t s)²/2 nats; mean KL divergence may be `KL_TIMES` times as much, and at most `KL_MOST` unless
  a tolerance of more than `MOST` was asked for.
- The top choice must be the same at `TOP` of all positions, ties aside: choices that are within
  4 t s of each other in the original are a tie.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unmergeable.checkpoint.folder import ModelFolder
from unmergeable.gauge.floats import FORMATS, ROUNDABLE
from unmergeable.verification.forward import Outputs

EXACT_TOLERANCE = 1e-4
PEAK = 1e-3
PEAK_MOST = 1e-2
ROUNDING_TIMES = 8
UNITS_OF_ROUNDING = 16
MOST = UNITS_OF_ROUNDING * 2.0**-8  # bfloat16 throughout
KL_TIMES = 8
KL_MOST = 0.1
TOP = 0.99
VARYING_TIMES = 32
VARYING_MOST = 0.25
_TIE = 4
# What of the outputs does not depend on the input must not be all but this share of them.
_VARIES = 1e-6


@dataclass(frozen=True)
class OutputComparison:
    """One output of two models, on the same inputs; see the module's text for the bounds.

    Attributes:
        what: "logits", "last_hidden_state" or another name; "embeddings" for the hidden states of a
            model whose class hands out something else.
        inputs: what they were run on, for people.
        values: how many output values were compared.
        scale: the largest absolute output of the original.
        max_difference: the largest absolute difference.
        mean_kl: mean Kullback-Leibler divergence of the protected from the original distribution,
            in nats; None where the outputs are not logits.
        top1_agreement: share of positions with the same most likely label; None likewise.
        rms_difference: root mean square of the differences, relative to that of the outputs.
        tolerance: allowed `rms_difference`.
        varying_difference: as `rms_difference`, of the outputs without their mean.
        varying_allowed: allowed `varying_difference`.
        kl_allowed: allowed `mean_kl`.
        top1_tied: share of positions whose most likely label is the same, or as likely within the
            tolerance; None where `top1_agreement` is.
        constant: whether the original's outputs do not depend on the input.
        not_finite: which of "original" and "protected" has outputs that are NaN or infinite.
        rounding: the largest difference that float32 makes of the original's outputs, against
            float64, relative to the scale; None where nothing depends on it.
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
    varying_difference: float = 0.0
    varying_allowed: float = math.inf
    kl_allowed: float = math.inf
    top1_tied: float | None = None
    constant: bool = False
    not_finite: tuple[str, ...] = ()
    rounding: float | None = None

    @property
    def relative(self) -> float:
        """The largest difference relative to the scale."""
        return self.max_difference / self.scale if self.scale else self.max_difference

    @property
    def same(self) -> bool:
        """Whether the differences are within the bounds; what is not finite never is."""
        worst = max(self.tolerance, min(10 * self.tolerance, PEAK))
        if self.rounding is not None:
            worst = max(worst, min(ROUNDING_TIMES * self.rounding, PEAK_MOST))
        return self._is_close and self.relative <= worst

    @property
    def hangs_on_rounding(self) -> bool:
        """Whether nothing but a few outputs is off, by no more than rounding may be worth."""
        return self._is_close and not self.same and self.relative <= PEAK_MOST

    @property
    def _is_close(self) -> bool:
        """Whether all holds but the bound of single outputs."""
        return bool(
            not self.not_finite
            and self.rms_difference <= self.tolerance
            and self.varying_difference <= self.varying_allowed
            and (self.mean_kl is None or self.mean_kl <= self.kl_allowed)
            and (self.top1_tied is None or self.top1_tied >= TOP)
        )


def rounding_tolerance(original: ModelFolder) -> float:
    """What a lock that rounds may cost, from the dtypes of the open model."""
    count, squares = 0, 0.0
    for entry in original.tensors.values():
        form = FORMATS.get(entry.dtype)
        if form is None:
            continue
        numbers = math.prod(entry.shape)
        count += numbers
        if entry.dtype in ROUNDABLE:
            squares += numbers * 2.0 ** (-2 * (form.mantissa + 1))
    unit = math.sqrt(squares / count) if count else 0.0
    return min(MOST, max(EXACT_TOLERANCE, UNITS_OF_ROUNDING * unit))


def compare_outputs(one: Outputs, two: Outputs, inputs: str, tolerance: float) -> OutputComparison:
    """Compares one output of the original with that of the protected model.

    Args:
        one: the original's.
        two: the protected model's.
        inputs: what they were run on, for people.
        tolerance: allowed root mean square difference.
    """
    bad = tuple(
        who
        for who, outputs in (("original", one), ("protected", two))
        if not all(np.isfinite(row).all() for row in outputs.rows)
    )
    with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinity are answers here
        return _compared(one, two, inputs, tolerance, bad)


def _compared(
    one: Outputs, two: Outputs, inputs: str, tolerance: float, bad: tuple[str, ...]
) -> OutputComparison:
    logits = one.is_distribution
    mean = _mean(one.rows)
    difference = scale = kl = 0.0
    gaps = power = inner_gaps = inner_power = spread = 0.0
    agreed = rows = values = 0
    for a, b in _pairs(one, two):
        gap = float(np.abs(a - b).max()) if a.size else 0.0
        difference = gap if np.isnan(gap) else max(difference, gap)
        scale = max(scale, float(np.abs(a).max(initial=0.0)))
        gaps += _squares(a - b)
        power += _squares(a)
        values += a.size
        rows += len(a)
        spread += _squares(a - mean)
        if logits:
            p, q = _log_softmax(a), _log_softmax(b)
            kl += float((np.exp(p) * (p - q)).sum())
            agreed += int((a.argmax(-1) == b.argmax(-1)).sum())
            a, b = _centred(a), _centred(b)
            inner_gaps += _squares(a - b)
            inner_power += _squares(a)
        elif not np.isscalar(mean):
            inner_gaps += _squares(a - b)
            inner_power += _squares(a - mean)
    constant = not bad and rows > 1 and spread <= _VARIES**2 * power
    varying = 0.0 if constant and not logits else _ratio(inner_gaps, inner_power)
    most = max(tolerance, min(VARYING_TIMES * tolerance, VARYING_MOST))
    size = math.sqrt(inner_power / values) if logits and values else 0.0
    if logits:
        window = _TIE * tolerance * size
        tied = sum(_tied(a, b, window) for a, b in _pairs(one, two))
    allowed = KL_TIMES * (tolerance * size) ** 2 / 2 + _KL_NOISE
    return OutputComparison(
        one.what,
        inputs,
        values,
        scale,
        float(difference),
        float(np.maximum(0.0, kl / rows)) if logits else None,
        agreed / rows if logits else None,
        _ratio(gaps, power),
        tolerance,
        varying,
        tolerance if logits else most,
        allowed if tolerance > MOST else min(allowed, KL_MOST),
        tied / rows if logits else None,
        constant,
        bad,
    )


# Of logits in float32 that are the same but for the order of sums.
_KL_NOISE = 1e-9


def _pairs(one: Outputs, two: Outputs) -> Any:
    """The two models' rows in float64."""
    for a, b in zip(one.rows, two.rows, strict=True):
        yield a.astype(np.float64), b.astype(np.float64)


def _mean(rows: Sequence[Any]) -> Any:
    """Each value's mean over all positions; 0 if there is one position, or they differ in size."""
    if len({row.shape[-1] for row in rows}) != 1 or sum(map(len, rows)) < 2:
        return 0.0
    return sum(row.sum(0, dtype=np.float64) for row in rows) / sum(map(len, rows))


def _centred(logits: Any) -> Any:
    return logits - logits.mean(-1, keepdims=True)


def _tied(a: Any, b: Any, window: float) -> int:
    """At how many positions the second's top choice is one of the first's, ties included."""
    chosen = np.take_along_axis(a, b.argmax(-1)[:, None], -1)[:, 0]
    return int((a.max(-1) - chosen <= window).sum())


def _ratio(gaps: float, power: float) -> float:
    return math.sqrt(gaps / power) if power else math.sqrt(gaps)


def _squares(values: Any) -> float:
    return float((values**2).sum())


def _log_softmax(logits: Any) -> Any:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
