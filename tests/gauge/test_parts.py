import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.gauge.strategies import randomness, seeds
from unmergeable.gauge.axis_blocks import blocks
from unmergeable.gauge.axis_map import AxisMap
from unmergeable.gauge.blas import one_thread
from unmergeable.gauge.floats import FORMATS
from unmergeable.gauge.groups import GROUPS, Kind
from unmergeable.gauge.notation import Space, parse
from unmergeable.gauge.parts import moved, parts, values
from unmergeable.gauge.tensor_map import TensorMap

SPACES = {name: Space(name, size, None) for name, size in (("a", 2), ("b", 3), ("c", 4))}


@pytest.mark.parametrize(
    "text", ["a b", "(a b) c*", "c [(a b) (a b*)]", "(a [b c]) b", "[|c| c] (b a)"]
)
def test_parts_are_the_blocks_of_the_tensor(text):
    axes = parse(text)
    shape = [axis.size(SPACES) for axis in axes]
    tensor = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    found, wanted = list(parts(axes, SPACES, tensor)), list(blocks(axes, SPACES, tensor))
    assert [part.atoms for part in found] == [block.atoms for block in wanted]
    for part, block in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(part.values, block.values)


@given(
    st.sampled_from(["signed permutation", "scaled permutation", "linear"]), st.booleans(), seeds
)
def test_moving_is_the_tensor_map_in_the_tensor_s_own_precision(name, general, seed):
    draw = np.random.default_rng(seed)
    element = GROUPS[name].draw(6, randomness(seed), Kind(general=general))
    change = TensorMap((element, None, AxisMap.monomial(draw.permutation(4))))
    for dtype, tolerance in ((np.float32, 1e-5), (np.float64, 1e-12)):
        tensor = draw.normal(size=(6, 2, 4)).astype(dtype)
        found = moved(change, tensor)
        assert found.dtype == dtype
        np.testing.assert_allclose(found, change(tensor.astype(float)), rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", FORMATS)
def test_values_are_those_that_are_stored(dtype):
    number = FORMATS[dtype].number
    stored = np.array([[0.5, -1.0], [0.25, 2.0]]).astype(number)
    found = values(stored.reshape(-1).view(np.uint8), (2, 2), dtype)
    assert found.dtype == (np.float64 if dtype == "F64" else np.float32)
    np.testing.assert_array_equal(found, stored.astype(float))


def test_what_is_no_number_is_zero():
    assert not values(np.ones(16, np.uint8), (2,), "I64").any()


def test_one_thread_leaves_products_as_they_are():
    one = np.random.default_rng(0).normal(size=(50, 50))
    with one_thread():
        np.testing.assert_allclose(one @ one, np.einsum("ij,jk", one, one))
