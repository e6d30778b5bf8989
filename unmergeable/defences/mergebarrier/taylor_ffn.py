"""One FFN block with the activations of some of its neurons unfolded as Taylor polynomials.

Which neurons: the error that a neuron adds to the block's output is at most its polynomial's worst
error within its calibrated range (`taylor.worst_error`), times the norm of its column of the down
projection, times the root mean square of what the gate multiplies. `auto` expands a neuron if that
is at most `tolerance` times the median norm of the block's output over the square root of the
number of neurons: then, if errors of different neurons are independent, the block is off by at most
`tolerance` of its output even if every neuron were expanded and at its worst at once. (Ours;
TaylorMLP's `select_dim` fixes a number of neurons instead.)
"""

from __future__ import annotations

from dataclasses import dataclass

import ml_dtypes
import numpy as np
import numpy.typing as npt

from unmergeable.defences.mergebarrier.calibration import Seen
from unmergeable.defences.mergebarrier.taylor import Activation, worst_error
from unmergeable.errors import PrecisionError
from unmergeable.gauge.axis_map import Float, Index

Stored = npt.NDArray[np.generic]


@dataclass(frozen=True, eq=False)
class Ffn:
    """The numbers of one block, float64, matrices as (out, in).

    Attributes:
        up: (neurons, width); the gate's in a gated block.
        up_bias: (neurons,), zeros where there is none.
        down: (width, neurons).
        down_bias: (width,), or None.
        carried: (neurons, width), what a gated block multiplies by; else None.
        carried_bias: (neurons,), or None.
    """

    up: Float
    up_bias: Float
    down: Float
    down_bias: Float | None
    carried: Float | None = None
    carried_bias: Float | None = None


@dataclass(frozen=True)
class Shape:
    """How blocks are unfolded; fields as in `mergebarrier.SETTINGS`."""

    order: int
    neurons: str | float
    tolerance: float
    margin: float


@dataclass(frozen=True, eq=False)
class Unfolded:
    """One block, ordinary neurons first, matrices as (out, in), in the storage dtype.

    Attributes:
        tensors: by role: "up", "up_bias", "limit", "down", "terms", "down_bias", "carried",
            "carried_bias". `terms` is (powers, width, expanded).
        source: which stock neuron each one is, shape (neurons,).
        expanded: how many of the last ones are unfolded.
        error: root mean square over the calibration's kept positions of the relative error of the
            block's output.
    """

    tensors: dict[str, Stored]
    source: Index
    expanded: int
    error: float


def unfold_block(
    ffn: Ffn,
    seen: Seen,
    activation: Activation,
    shape: Shape,
    signs: Float,
    dtype: np.dtype[np.generic],
) -> Unfolded | None:
    """Unfolds one block; None if no neuron qualifies.

    Args:
        ffn: the stock block.
        seen: what it saw.
        activation: its own.
        shape: how.
        signs: of each neuron, drawn from the key, shape (neurons,).
        dtype: the storage dtype.

    Raises:
        PrecisionError: a number that the storage dtype cannot hold.
    """
    # The bias is rounded first, and the centre is what the rounded bias stands for.
    shifted = _cast(signs * (ffn.up_bias - 0.5 * (seen.low + seen.high)), dtype)
    centre = ffn.up_bias - signs * shifted.astype(np.float64)
    half = np.maximum(seen.high - centre, centre - seen.low)
    limit = _cast(shape.margin * half, dtype)
    reach = limit.astype(np.float64)
    unit = max(float(ml_dtypes.finfo(dtype).eps) / 2, float(np.finfo(np.float32).eps) / 2)
    if dtype == np.float64:
        unit = float(np.finfo(np.float64).eps) / 2
    weight = np.linalg.norm(ffn.down, axis=0) * seen.carried
    with np.errstate(over="ignore", invalid="ignore"):
        score = worst_error(activation, centre, reach, shape.order, unit) * weight
    expanded = _choose(np.nan_to_num(score, nan=np.inf), seen.size, shape)
    if not len(expanded):
        return None
    ordinary = np.setdiff1d(np.arange(len(centre)), expanded)
    source = np.concatenate([ordinary, expanded]).astype(np.int64)
    s, cut = signs[expanded], len(ordinary)

    up, up_bias = ffn.up[source], ffn.up_bias[source]
    up[cut:] *= s[:, None]
    up_bias[cut:] = shifted[expanded].astype(np.float64)
    rows = activation.coefficients(centre[expanded], shape.order)
    rows *= s ** np.arange(shape.order + 1)[:, None]
    terms = ffn.down[None][:, :, expanded] * rows[:, None, :]
    down_bias = ffn.down_bias
    if ffn.carried is None:  # the constant term is the same for every input
        constant = terms[0].sum(1)
        down_bias = constant if down_bias is None else down_bias + constant
        terms = terms[1:]
    numbers = {
        "up": up,
        "up_bias": up_bias,
        "down": ffn.down[:, ordinary],
        "terms": terms,
        "down_bias": down_bias,
        "carried": None if ffn.carried is None else ffn.carried[source],
        "carried_bias": None if ffn.carried_bias is None else ffn.carried_bias[source],
    }
    tensors = {role: _cast(x, dtype) for role, x in numbers.items() if x is not None}
    tensors["limit"] = limit[expanded]
    made = {role: x.astype(np.float64) for role, x in tensors.items()}
    gap = outputs(made, activation, seen.inputs) - seen.outputs
    size = np.maximum(np.linalg.norm(seen.outputs, axis=1), 1e-300)
    error = float(np.sqrt(np.mean((np.linalg.norm(gap, axis=1) / size) ** 2)))
    return Unfolded(tensors, source, len(expanded), error)


def outputs(tensors: dict[str, Float], activation: Activation, x: Float) -> Float:
    """What an unfolded block makes of some inputs, in float64, without the clamp.

    Args:
        tensors: by role, as in `Unfolded`.
        activation: of the ordinary neurons.
        x: (positions, width).
    """
    z = x @ tensors["up"].T + tensors["up_bias"]
    cut = tensors["down"].shape[1]
    h, t = activation.value(z[:, :cut]), z[:, cut:]
    power = np.ones_like(t)
    if "carried" in tensors:
        u = x @ tensors["carried"].T + tensors.get("carried_bias", 0.0)
        h, power = h * u[:, :cut], u[:, cut:]
    else:
        power = t
    y = h @ tensors["down"].T + tensors.get("down_bias", 0.0)
    for term in tensors["terms"]:
        y = y + power @ term.T
        power = power * t
    return np.asarray(y)


def _choose(score: Float, size: float, shape: Shape) -> Index:
    """Which neurons are unfolded, ascending."""
    count = len(score)
    if shape.neurons == "auto":
        return np.flatnonzero(score <= shape.tolerance * size / np.sqrt(count))
    share = 1.0 if shape.neurons == "all" else float(shape.neurons)
    return np.sort(np.argsort(score, kind="stable")[: round(share * count)])


def _cast(values: Float, dtype: np.dtype[np.generic]) -> Stored:
    with np.errstate(over="ignore"):
        out = values.astype(dtype)
    if not np.isfinite(out.astype(np.float64)).all():
        raise PrecisionError(
            f"{dtype} cannot hold a number of an unfolded FFN. Use a lower order, or a wider dtype."
        )
    return np.asarray(out)
