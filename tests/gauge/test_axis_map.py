import numpy as np
import pytest
from hypothesis import given

from tests.gauge.strategies import SPACES, axes, gauge, kinds, matrix, seeds
from unmergeable.gauge.axis_map import AxisMap
from unmergeable.gauge.notation import parse


def drawn(text, seed, kind):
    (axis,) = parse(text)
    return axis.map(SPACES, gauge(seed, kind), {})


@given(axes, seeds, kinds)
def test_inverse_undoes_the_map(text, seed, kind):
    change = drawn(text, seed, kind)
    x = np.random.default_rng(seed).normal(size=(change.size, 3))
    np.testing.assert_allclose(change.inverse(change(x)), x, atol=1e-12)
    np.testing.assert_allclose(change(change.inverse(x)), x, atol=1e-12)


@given(axes, seeds, kinds)
def test_a_map_and_its_dual_keep_every_product(text, seed, kind):
    change = drawn(text, seed, kind)
    x, y = np.random.default_rng(seed).normal(size=(2, change.size))
    np.testing.assert_allclose(change(x) @ change.dual(y), x @ y, atol=1e-10)


@given(axes, seeds, kinds)
def test_the_other_axis_of_an_array_gets_the_same_matrix(text, seed, kind):
    change = drawn(text, seed, kind)
    x = np.random.default_rng(seed).normal(size=(2, change.size, 3))
    expected = np.einsum("ij,ajb->aib", matrix(change), x)
    np.testing.assert_allclose(change(x, axis=1), expected, atol=1e-12)


@given(axes, seeds)
def test_the_order_is_the_map_without_its_scales(text, seed):
    from unmergeable.gauge.groups import Kind

    change = drawn(text, seed, Kind())
    np.testing.assert_array_equal(matrix(change.order), np.abs(matrix(change)) > 0)


@given(axes, seeds, kinds)
def test_scales_that_follow_multiply_the_rows(text, seed, kind):
    change = drawn(text, seed, kind)
    scale = np.random.default_rng(seed).uniform(-2, 2, change.size)
    found = matrix(change.followed_by(scale))
    np.testing.assert_allclose(found, scale[:, None] * matrix(change), atol=1e-12)


def test_scales_that_are_not_powers_of_two_are_not_lossless():
    order = np.arange(2)
    assert AxisMap.monomial(order, np.array([-0.5, 4.0])).is_lossless
    assert not AxisMap.monomial(order, np.array([1.0, 3.0])).is_lossless
    assert not AxisMap.block(np.eye(2)).is_lossless


def test_a_block_that_straddles_its_space_cannot_be_inverted():
    astray = AxisMap(np.array([0, 2, 1, 3]), (np.stack([np.eye(2)] * 2),))
    with pytest.raises(ValueError, match="straddles"):
        _ = astray.inverse


def test_identity_is_recognised():
    assert AxisMap.identity(4).is_identity
    assert not AxisMap.monomial(np.arange(2), np.array([1.0, -1.0])).is_identity
    assert not AxisMap.monomial(np.array([1, 0])).is_identity
