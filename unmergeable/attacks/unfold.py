"""Unfold: the stock model out of a MergeBarrier-style one, without key, base and data.

The terms of an expanded neuron j are its column of the down projection, w, times numbers:

    Theta_n = w * v_n,    v_n = s**n * act^(n)(z0) / n!

so that the ratios of the terms depend on its centre z0 and its sign s alone: two unknowns, up to
thirteen numbers. Where the open model has no bias on that layer, as in Llama, the bias of the
protected one is -s z0, and two candidates are left. Elsewhere a grid over z0 finds a start and
Gauss-Newton ends it. Then w is read off the terms, and the row, the bias and the constant follow.

For GELU and SiLU, act(z) - z/2 is even: (z0, s) and (-z0, -s) agree in every term but those of
powers 0 and 1, which tell them apart.

What remains: the sign flips of attention, an exact change of coordinates that `align` fits (or that
the thief computes again: `defences.sign_flip`), and the order of the neurons.

If a variant hides its centres better than this, the fallback is to put the base's FFN in the place
of the protected one, as AGA does (arXiv 2606.30360): `attacks.reset` of the FFN.

Source: ours. The reconstructed defence is labelled so in `defences.mergebarrier`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from unmergeable.defences.mergebarrier.ffn_plan import FfnPlan
from unmergeable.defences.mergebarrier.taylor import Activation
from unmergeable.errors import InputError
from unmergeable.gauge.axis_map import Float

if TYPE_CHECKING:
    import torch

SECTION, PREFIX = "mergebarrier", "MergeBarrier"
# Where centres are looked for. Beyond, activations are straight, and there is nothing to unfold.
WIDEST, STEP = 40.0, 0.05
_STARTS, _ROUNDS = 4, 20
_USUAL = 4.0
_CHUNK = 256


@dataclass(frozen=True, eq=False)
class Unfolded:
    """A stock model again.

    Attributes:
        tensors: by stock names, in the dtypes of the protected model.
        config: of the stock class.
        residual: by how much the terms miss what was recovered, Frobenius norm relative to their
            own, each power weighed alike: the worst layer. Rounding of the storage dtype if all is
            well.
        seconds: wall time.
    """

    tensors: dict[str, torch.Tensor]
    config: dict[str, Any]
    residual: float
    seconds: float


def unfold(state: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> Unfolded:
    """Inverts the FFN part of MergeBarrier-style protection.

    Args:
        state: the protected folder's tensors by name.
        config: its config.json.

    Raises:
        InputError: not such a folder.
    """
    import torch

    start = time.perf_counter()
    section = config.get(SECTION)
    if not isinstance(section, Mapping):
        raise InputError(f"config.json has no section {SECTION!r}: nothing is unfolded here.")
    stock = _stock_config(config, section)
    plan = FfnPlan.of(section["model_type"], stock)
    tensors = dict(state)
    trunk = plan.trunk(tensors)
    flip, worst = plan.family.transposed, 0.0
    for layer, expanded in enumerate(section["expanded"]):
        if not expanded:
            continue
        block = plan.block(layer, trunk)
        terms = _numbers(tensors.pop(f"{block.down}.terms"))
        tensors.pop(f"{block.up}.limit")
        up, down = (_numbers(tensors[f"{path}.weight"]) for path in (block.up, block.down))
        up, down = (up.T, down.T) if flip else (up, down)
        bias = _numbers(tensors[f"{block.up}.bias"])
        cut = len(bias) - expanded
        # An open model without this bias has zeros at its ordinary neurons.
        bare = bool(block.carried) and f"{block.carried}.bias" not in tensors
        first = 0 if block.carried else 1
        hint = bias[cut:] if bare else None
        sign, centre, columns, missed = recover(terms, first, plan.activation, hint)
        worst = max(worst, missed)
        up, bias = up.copy(), bias.copy()
        up[cut:] *= sign[:, None]
        bias[cut:] = sign * bias[cut:] + centre
        made = {
            f"{block.up}.weight": up.T if flip else up,
            f"{block.up}.bias": bias,
            f"{block.down}.weight": (lambda x: x.T if flip else x)(
                np.concatenate([down, columns], axis=1)
            ),
        }
        if first:
            key = f"{block.down}.bias"
            made[key] = _numbers(tensors[key]) - columns @ plan.activation.value(centre)
        for name, values in made.items():
            dtype = tensors[name].dtype
            tensors[name] = torch.from_numpy(np.ascontiguousarray(values)).to(dtype)
        if bare:
            del tensors[f"{block.up}.bias"]
    return Unfolded(tensors, stock, worst, time.perf_counter() - start)


def recover(
    terms: Float, first: int, activation: Activation, bias: Float | None
) -> tuple[Float, Float, Float, float]:
    """Signs, centres and columns of some neurons from their terms.

    Args:
        terms: shape (powers, width, neurons).
        first: the power of the first term, 0 or 1.
        activation: of the stock model.
        bias: the protected biases, (neurons,), where the stock ones are known to be zero.

    Returns:
        Signs and centres, (neurons,); columns of the down projection, (width, neurons); and the
        residual, as in `Unfolded`.
    """
    profiles = _profiles(terms)
    if bias is None:
        sign, centre = _search(profiles, first, activation)
    else:
        both = [_missed(profiles, first, activation, -s * bias, s) for s in (1.0, -1.0)]
        sign = np.where(both[0] <= both[1], 1.0, -1.0)
        centre = -sign * bias
    v = _numbers_of(first, len(terms), activation, centre, sign)
    # Every term has the same relative rounding, so that its size is its weight.
    columns = np.einsum("ndj,nj->dj", terms, v) / (v**2).sum(0)
    sizes = np.linalg.norm(terms, axis=(1, 2))
    gap = np.linalg.norm(terms - columns * v[:, None], axis=(1, 2))
    kept = sizes > 0
    missed = float(np.sqrt(np.mean((gap[kept] / sizes[kept]) ** 2))) if kept.any() else 0.0
    return sign, centre, columns, missed


def _profiles(terms: Float) -> Float:
    """Each neuron's terms along one direction: (powers, neurons), the largest one of size 1."""
    largest = np.linalg.norm(terms, axis=1).argmax(0)
    axis = terms[largest, :, np.arange(terms.shape[2])].T
    axis = axis / np.maximum(np.linalg.norm(axis, axis=0), 1e-300)
    found = np.einsum("ndj,dj->nj", terms, axis)
    return np.asarray(found / np.maximum(np.abs(found).max(0), 1e-300), np.float64)


def _numbers_of(
    first: int, powers: int, activation: Activation, centre: Float, sign: Float
) -> Float:
    """v_n of each neuron, shape (powers, neurons)."""
    rows = activation.coefficients(centre, first + powers - 1)[first:]
    return np.asarray(rows * sign ** np.arange(first, first + powers)[:, None], np.float64)


def _scaled(profiles: Float, v: Float, floor: Float | float = 1e-12) -> Float:
    """What is left of profiles when v explains them, each power relative to its own size."""
    weight = 1 / (np.abs(profiles) + floor)
    a, b = profiles * weight, v * weight
    scale = (a * b).sum(0) / np.maximum((b * b).sum(0), 1e-300)
    return np.asarray(a - scale * b, np.float64)


def _missed(
    profiles: Float, first: int, activation: Activation, centre: Float, sign: float
) -> Float:
    signs = np.full(len(centre), sign)
    v = _numbers_of(first, len(profiles), activation, centre, signs)
    return np.asarray((_scaled(profiles, v) ** 2).sum(0), np.float64)


def _search(profiles: Float, first: int, activation: Activation) -> tuple[Float, Float]:
    """Signs and centres by a grid and Gauss-Newton, neurons in chunks.

    A power that happens to be near zero would make the true minimum narrower than the grid. So
    powers are first weighed by their usual sizes, and several minima are followed.
    """
    grid = np.arange(-WIDEST, WIDEST + STEP / 2, STEP)
    usual = np.abs(_numbers_of(first, len(profiles), activation, grid, np.ones(len(grid))))
    usual = (usual / np.maximum(usual.max(0), 1e-300))[:, np.abs(grid) < _USUAL].mean(1)[:, None]
    count = profiles.shape[1]
    best, sign, centre = np.full(count, np.inf), np.ones(count), np.zeros(count)
    for s in (1.0, -1.0):
        v = _numbers_of(first, len(profiles), activation, grid, np.full(len(grid), s))
        for begin in range(0, count, _CHUNK):
            part = slice(begin, begin + _CHUNK)
            some = profiles[:, part]
            costs = (_scaled(some[:, :, None], v[:, None, :], usual[:, None]) ** 2).sum(0)
            sides = np.pad(costs, ((0, 0), (1, 1)), constant_values=np.inf)
            lower = (costs <= sides[:, :-2]) & (costs <= sides[:, 2:])
            starts = np.argsort(np.where(lower, costs, np.inf), axis=1)[:, :_STARTS]
            for start in starts.T:
                signs = np.full(len(start), s)
                tried = _refined(some, first, activation, grid[start], signs, usual)
                tried = _refined(some, first, activation, tried, signs, 1e-12)
                found = _missed(some, first, activation, tried, s)
                better = found < best[part]
                sign[part] = np.where(better, s, sign[part])
                centre[part] = np.where(better, tried, centre[part])
                best[part] = np.where(better, found, best[part])
    return sign, centre


def _refined(
    profiles: Float,
    first: int,
    activation: Activation,
    centre: Float,
    sign: Float,
    floor: Float | float,
) -> Float:
    """Gauss-Newton on the centres, with steps halved until they help."""

    def cost(z: Float) -> tuple[Float, Float]:
        v = _numbers_of(first, len(profiles), activation, z, sign)
        left = _scaled(profiles, v, floor)
        return left, (left**2).sum(0)

    left, value = cost(centre)
    small = 1e-6
    for _ in range(_ROUNDS):
        slope = (cost(centre + small)[0] - cost(centre - small)[0]) / (2 * small)
        step = -(slope * left).sum(0) / np.maximum((slope**2).sum(0), 1e-300)
        step = np.clip(step, -STEP, STEP)
        for _ in range(4):
            tried, new = cost(centre + step)
            better = new < value
            step = np.where(better, step, step / 4)
            if better.all():
                break
        centre = np.where(better, centre + step, centre)
        left, value = np.where(better, tried, left), np.where(better, new, value)
        if not better.any():
            break
    return centre


def _numbers(tensor: torch.Tensor) -> Float:
    return np.asarray(tensor.double().cpu().numpy(), np.float64)


def _stock_config(config: Mapping[str, Any], section: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of the stock class."""
    stock = {k: v for k, v in config.items() if k not in (SECTION, "auto_map")}
    stock["model_type"] = section["model_type"]
    stock["architectures"] = [name.removeprefix(PREFIX) for name in config["architectures"]]
    return stock
