import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.gauge.strategies import SPACES, gauge, seeds
from unmergeable.errors import InputError, UnsupportedError
from unmergeable.gauge.floats import FORMATS
from unmergeable.gauge.groups import Kind
from unmergeable.gauge.notation import number, parse, split
from unmergeable.gauge.stack_map import StackMap
from unmergeable.gauge.tensor_map import TensorMap

AXES = ["wide* [|neuron| neuron]", "neuron* wide", "neuron", "fixed (head vo)", "(head vo) wide"]


def drawn(text, seed, kind, count=3):
    """A stack of `count` slices, each with elements of its own."""
    axes = parse(text)
    slices = [
        TensorMap.of([axis.map(SPACES, gauge(seed + place, kind), {}) for axis in axes])
        for place in range(count)
    ]
    source = np.random.default_rng(seed).permutation(count)
    return StackMap(source, tuple(slices)), (count, *(axis.size(SPACES) for axis in axes))


def stored(values, dtype):
    return np.ascontiguousarray(values.astype(FORMATS[dtype].number)).reshape(-1).view(np.uint8)


def read(data, shape, dtype):
    return data.view(FORMATS[dtype].number).astype(np.float64).reshape(shape)


@pytest.mark.parametrize("dtype", ["F64", "F32", "BF16"])
@given(st.sampled_from(AXES), seeds)
def test_a_stack_is_its_slices_in_another_order(dtype, text, seed):
    change, shape = drawn(text, seed, Kind())
    values = np.random.default_rng(seed).normal(size=shape)
    data = stored(values, dtype)
    moved = change.apply(data, shape, dtype)
    want = np.stack([change.slices[old](read(data, shape, dtype)[old]) for old in change.source])
    np.testing.assert_array_equal(read(moved, shape, dtype), want)
    np.testing.assert_array_equal(change(read(data, shape, dtype)), want)
    np.testing.assert_array_equal(change.inverse.apply(moved, shape, dtype), data)


@given(st.sampled_from(AXES), seeds)
def test_rotations_of_a_stack_come_back(text, seed):
    change, shape = drawn(text, seed, Kind(general=True))
    values = np.random.default_rng(seed).normal(size=shape)
    moved = change.apply(stored(values, "F64"), shape, "F64")
    back = read(change.inverse.apply(moved, shape, "F64"), shape, "F64")
    np.testing.assert_allclose(back, values, atol=1e-9)


def test_an_order_alone_moves_and_is_no_identity():
    stay = TensorMap((None, None))
    change = StackMap(np.array([1, 0]), (stay, stay))
    values = np.arange(8.0).reshape(2, 2, 2)
    assert not change.is_identity
    assert (
        read(change.apply(stored(values, "F32"), (2, 2, 2), "F32"), (2, 2, 2), "F32").tolist()
        == values[::-1].tolist()
    )
    assert StackMap(np.arange(2), (stay, stay)).is_identity
    with pytest.raises(UnsupportedError, match="dtype I32 cannot be moved"):
        change.apply(np.zeros(32, np.uint8), (2, 2, 2), "I32")
    # Narrow formats have an order too.
    narrow = np.arange(8.0).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    assert change.apply(narrow, (2, 2, 2), "F8_E4M3").tolist() == np.roll(narrow, 4).tolist()


@pytest.mark.parametrize("moves", [True, False])
def test_a_value_that_is_not_finite_is_found_in_any_slice(moves):
    stay = TensorMap((None, None))
    change = StackMap(np.array([1, 0]) if moves else np.arange(2), (stay, stay))
    values = np.ones((2, 2, 2))
    values[1, 0, 1] = np.nan
    with pytest.raises(InputError, match="NaN"):
        change.apply(stored(values, "F32"), (2, 2, 2), "F32")
    moved = change.apply(stored(values, "F32"), (2, 2, 2), "F32", allow_non_finite=True)
    assert np.isnan(read(moved, (2, 2, 2), "F32")).sum() == 1


@pytest.mark.parametrize("text", ["head", "(head query)", "(head query wide)"])
def test_places_on_a_product_split_and_join(text):
    (axis,) = parse(text)
    places = [split(axis, place, SPACES) for place in range(axis.size(SPACES))]
    assert len({tuple(sorted(place.items())) for place in places}) == len(places)
    assert [number(axis, place, SPACES) for place in places] == list(range(len(places)))
    assert places == sorted(places, key=lambda place: [place[name] for name in axis.names()])


@pytest.mark.parametrize("kind", [Kind(), Kind(general=True)], ids=["lossless", "general"])
def test_a_stack_of_another_shape_is_refused_before_it_is_read(kind):
    change, (count, rows, columns) = drawn("neuron* wide", 1, kind)
    for shape in [
        (count + 1, rows, columns),
        (count - 1, rows, columns),
        (count, rows + 1, columns),
        (count, rows, columns // 2),
        (count, rows * columns),
        (),
    ]:
        data = stored(np.ones(int(np.prod(shape))), "F32")
        with pytest.raises(InputError, match="of shape"):
            change.apply(data, shape, "F32")
    data = stored(np.ones(count * rows * columns + 1), "F32")
    with pytest.raises(InputError, match="bytes instead of"):
        change.apply(data, (count, rows, columns), "F32")
