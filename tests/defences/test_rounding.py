"""What ill-conditioned elements cost: against the definition, and against a table of its own."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from unmergeable.defences.rounding import condition, product_error
from unmergeable.gauge.axis_map import AxisMap


def gaussian(size=64, columns=768, seed=0):
    draw = np.random.default_rng(seed)
    return draw, draw.normal(size=(size, columns)), draw.normal(size=(size, columns))


def conditioned(draw, size, number):
    left, right = (np.linalg.qr(draw.normal(size=(size, size)))[0] for _ in range(2))
    return left * np.geomspace(1, 1 / number, size) @ right


def test_the_error_of_a_product_is_the_plain_definition():
    draw, write, read = gaussian(5, 9)
    near = write + 1e-3 * draw.normal(size=write.shape), read * 1.002
    plain = np.linalg.norm(near[1].T @ near[0] - read.T @ write) / np.linalg.norm(read.T @ write)
    assert product_error((write, read), near) == pytest.approx(plain, rel=1e-9)


def test_errors_of_float64_are_not_lost():
    _, write, read = gaussian()
    error = product_error((write, read), (write * (1 + 1e-14), read))
    assert error == pytest.approx(1e-14, rel=0.1)


def test_what_overflows_is_infinitely_wrong():
    _, write, read = gaussian(4, 4)
    assert product_error((write, read), (write * np.inf, read)) == np.inf


# Section 5 of the project's reference: Gaussian queries and keys, rounded to bfloat16.
@pytest.mark.parametrize(
    ("number", "cost"), [(1, 2.3e-3), (10, 5.1e-3), (30, 1.1e-2), (100, 2.7e-2)]
)
def test_the_cost_in_bfloat16_grows_with_the_condition_number(number, cost):
    draw, write, read = gaussian()
    element = AxisMap.block(conditioned(draw, 64, number))
    assert condition(element) == pytest.approx(number, rel=1e-6)
    sides = []
    for change, rows in ((element, write), (element.dual, read)):
        stored = change(rows).astype(ml_dtypes.bfloat16).astype(np.float64)
        sides.append(change.inverse(stored))
    assert product_error((write, read), tuple(sides)) == pytest.approx(cost, rel=0.25)


def test_the_condition_of_scales_and_of_runs():
    scales = AxisMap.monomial(np.array([2, 0, 1]), np.array([-4.0, 0.5, 1.0]))
    assert condition(scales) == 8
    assert condition(AxisMap.identity(5)) == 1
    assert condition(AxisMap.joined([scales, AxisMap.block(np.diag([1.0, 100.0]))])) == 200
