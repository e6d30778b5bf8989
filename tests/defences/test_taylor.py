"""Taylor coefficients against automatic differentiation, and the error bound against errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers.activations import ACT2FN

from unmergeable.defences.mergebarrier.taylor import (
    ACTIVATIONS,
    NOT_ANALYTIC,
    activation_named,
    polynomial,
    worst_error,
)
from unmergeable.errors import UnsupportedError

POINTS = np.array([-4.0, -1.3, -0.2, 0.0, 0.7, 2.5, 5.0])


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_coefficients_are_the_derivatives(name):
    x = torch.tensor(POINTS, requires_grad=True)
    derivative = ACT2FN[name](x)
    found = ACTIVATIONS[name].coefficients(POINTS, 7)
    np.testing.assert_allclose(ACTIVATIONS[name].value(POINTS), derivative.detach(), atol=1e-14)
    for order in range(8):
        wanted = derivative.detach().numpy() / math.factorial(order)
        np.testing.assert_allclose(found[order], wanted, rtol=1e-8, atol=1e-12, err_msg=str(order))
        (derivative,) = torch.autograd.grad(derivative.sum(), x, create_graph=True)


@pytest.mark.parametrize("name", ["silu", "gelu", "gelu_new"])
def test_high_orders_are_right_too(name):
    """Within the radius of convergence, order 30 leaves nothing."""
    activation = ACTIVATIONS[name]
    rows = activation.coefficients(POINTS, 30)
    t = np.linspace(-0.6, 0.6, 9)[:, None] + np.zeros_like(POINTS)
    np.testing.assert_allclose(polynomial(rows, t), activation.value(POINTS + t), atol=1e-12)


def test_silu_converges_within_its_radius_and_not_beyond():
    def worst(distance, order):
        reach = np.array([distance])
        return float(worst_error(ACTIVATIONS["silu"], np.zeros(1), reach, order, 0.0)[0])

    inside = [worst(0.8 * math.pi, order) for order in (4, 8, 16, 32)]
    beyond = [worst(1.5 * math.pi, order) for order in (4, 8, 16, 32)]
    assert inside == sorted(inside, reverse=True) and inside[-1] < 1e-2
    assert beyond == sorted(beyond) and beyond[-1] > 10


@pytest.mark.parametrize("name", ["silu", "gelu", "gelu_new"])
@pytest.mark.parametrize("unit", [2.0**-8, 2.0**-24])
def test_the_bound_holds_for_rounded_coefficients(name, unit):
    random = np.random.default_rng(0)
    activation, order = ACTIVATIONS[name], 6
    centre, reach = random.normal(size=50) * 2, random.uniform(0.1, 2, size=50)
    bound = worst_error(activation, centre, reach, order, unit)
    rows = activation.coefficients(centre, order)
    rounded = rows * (1 + unit * random.choice([-1, 1], size=rows.shape))
    t = random.uniform(-1, 1, size=(2000, 50)) * reach
    missed = np.abs(polynomial(rounded, t) - activation.value(centre + t)).max(0)
    assert (missed <= bound * 1.001 + 1e-15).all()
    assert (missed > 0.02 * bound).mean() > 0.8, "a bound that says nothing"


@pytest.mark.parametrize("name", sorted(NOT_ANALYTIC))
def test_what_is_not_analytic_is_refused_by_name(name):
    with pytest.raises(UnsupportedError, match=f"'{name}' is not analytic"):
        activation_named(name)


def test_what_nobody_implemented_is_refused_by_name():
    with pytest.raises(UnsupportedError, match=r"nobody has implemented .* 'mish'"):
        activation_named("mish")
