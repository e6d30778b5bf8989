"""Taylor coefficients of activations at any point, in float64, and how far the polynomials miss.

The coefficients come from recurrences on truncated power series ("jets"), as in section 5.2 of
Griewank and Walther, Evaluating Derivatives (2008): the logistic function obeys s' = s (1 - s) g'
under an inner polynomial g, and the normal density f' = -z f. No finite differences, no symbols.

How far a polynomial reaches: SiLU's series converges within sqrt(pi**2 + z0**2) of z0, where the
logistic function has its poles, whatever the order. GELU by the error function has no poles, but
its coefficients shrink only once the order is well above the square of the distance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from unmergeable.errors import UnsupportedError
from unmergeable.gauge.axis_map import Float

# What cannot be unfolded, and why; anything else that is not treated is only not implemented.
NOT_ANALYTIC = frozenset(
    {"relu", "relu2", "relu6", "leaky_relu", "prelu", "hardswish", "xielu", "gelu_10"}
)
GRID = 41

_erf = np.vectorize(math.erf, otypes=[np.float64])


@dataclass(frozen=True)
class Activation:
    """An entrywise activation that is analytic on the real line.

    Attributes:
        name: as in a model's config.
        value: the function, on a float64 array.
        coefficients: from points of shape (n,) and an order N to s^(k)(z0) / k! for k = 0 .. N,
            shape (N + 1, n).
    """

    name: str
    value: Callable[[Float], Float]
    coefficients: Callable[[Float, int], Float]


def activation_named(name: str) -> Activation:
    """The activation of that name.

    Raises:
        UnsupportedError: one that has no Taylor series, or that nobody has implemented.
    """
    if name in ACTIVATIONS:
        return ACTIVATIONS[name]
    if name in NOT_ANALYTIC:
        raise UnsupportedError(
            f"the activation {name!r} is not analytic, so no Taylor polynomial follows it over its "
            f"kinks. MergeBarrier-style protection takes {', '.join(ACTIVATIONS)}."
        )
    raise UnsupportedError(
        f"nobody has implemented the Taylor series of the activation {name!r}. MergeBarrier-style "
        f"protection takes {', '.join(ACTIVATIONS)}."
    )


def polynomial(coefficients: Float, t: Float) -> Float:
    """Evaluates polynomials by Horner's rule.

    Args:
        coefficients: shape (N + 1, n), the lowest power first.
        t: distances from the centres, shape (..., n).
    """
    total = np.zeros_like(t) + coefficients[-1]
    for row in coefficients[-2::-1]:
        total = total * t + row
    return np.asarray(total, np.float64)


def worst_error(
    activation: Activation, centre: Float, reach: Float, order: int, unit: float
) -> Float:
    """A bound on how far each neuron's polynomial misses its activation within its reach.

    Two parts are added: the truncation, as the maximum over a grid of 41 points, and the rounding
    of stored coefficients, each by at most `unit` of itself, as the sum of all their parts at the
    reach. The second is what makes high orders useless in narrow dtypes.

    Args:
        activation: what is unfolded.
        centre: z0, shape (n,).
        reach: the largest distance from it, shape (n,).
        order: N.
        unit: relative rounding of a stored coefficient; 2**-8 for bfloat16.

    Returns:
        Shape (n,), in units of the activation's output.
    """
    rows = activation.coefficients(centre, order)
    t = np.linspace(-1, 1, GRID)[:, None] * reach
    missed = np.abs(polynomial(rows, t) - activation.value(centre + t)).max(0)
    rounded = unit * polynomial(np.abs(rows), reach)
    return np.asarray(missed + rounded, np.float64)


def _product(one: Float, two: Float, k: int) -> Float:
    """The coefficient of order k of a product of two jets."""
    return np.asarray((one[: k + 1] * two[k::-1]).sum(0), np.float64)


def _logistic(z: Float) -> Float:
    return np.asarray(0.5 * (1 + np.tanh(0.5 * z)))


def _logistic_jet(inner: Float, slope: Float, order: int) -> Float:
    """The jet of the logistic function of g: its value g(z0), and the jet of g', shape (*, n)."""
    s = np.zeros((order + 1, *inner.shape))
    change = np.zeros_like(s)
    s[0] = _logistic(inner)
    for k in range(order):
        change[k] = s[k] - _product(s, s, k)
        terms = (slope[i] * change[k - i] for i in range(min(k + 1, len(slope))))
        s[k + 1] = sum(terms, np.zeros_like(inner)) / (k + 1)
    return s


def _times_z(jet: Float, z: Float) -> Float:
    """The jet of z times a function."""
    out = z * jet
    out[1:] += jet[:-1]
    return np.asarray(out)


def _swish(name: str, steepness: float) -> Activation:
    """Z times the logistic function of `steepness` z."""

    def coefficients(z: Float, order: int) -> Float:
        slope = np.full((1, *z.shape), steepness)
        return _times_z(_logistic_jet(steepness * z, slope, order), z)

    return Activation(name, lambda z: z * _logistic(steepness * z), coefficients)


def _gelu(name: str) -> Activation:
    """Z times the normal distribution function, by the error function."""

    def coefficients(z: Float, order: int) -> Float:
        density = np.zeros((order + 1, *z.shape))
        density[0] = np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
        for k in range(order):
            below = density[k - 1] if k else 0.0
            density[k + 1] = -(z * density[k] + below) / (k + 1)
        area = np.zeros_like(density)
        area[0] = 0.5 * (1 + _erf(z / math.sqrt(2)))
        for k in range(order):
            area[k + 1] = density[k] / (k + 1)
        return _times_z(area, z)

    return Activation(name, lambda z: 0.5 * z * (1 + _erf(z / math.sqrt(2))), coefficients)


def _gelu_tanh(name: str) -> Activation:
    """GELU by a tanh: z times the logistic function of a cubic."""
    a, b = 2 * math.sqrt(2 / math.pi), 0.044715

    def coefficients(z: Float, order: int) -> Float:
        slope = np.stack([a * (1 + 3 * b * z * z), 6 * a * b * z, np.full_like(z, 3 * a * b)])
        return _times_z(_logistic_jet(a * (z + b * z**3), slope, order), z)

    return Activation(name, lambda z: z * _logistic(a * (z + b * z**3)), coefficients)


ACTIVATIONS: dict[str, Activation] = {
    made.name: made
    for made in (
        _swish("silu", 1.0),
        _swish("swish", 1.0),
        _swish("quick_gelu", 1.702),
        _gelu("gelu"),
        _gelu("gelu_python"),
        _gelu_tanh("gelu_new"),
        _gelu_tanh("gelu_pytorch_tanh"),
        _gelu_tanh("gelu_python_tanh"),
        _gelu_tanh("gelu_fast"),
    )
}
