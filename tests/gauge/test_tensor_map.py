import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.gauge.strategies import AXES, SPACES, gauge, seeds
from unmergeable.errors import InputError, PrecisionError, UnsupportedError
from unmergeable.gauge import kernel, lossless, rounding, tensor_map
from unmergeable.gauge.axis_map import AxisMap
from unmergeable.gauge.floats import FORMATS
from unmergeable.gauge.groups import Kind
from unmergeable.gauge.notation import parse
from unmergeable.gauge.tensor_chain import TensorChain
from unmergeable.gauge.tensor_map import TensorMap

SHAPED = [*AXES, "wide neuron*", "(head query vo*) wide", "wide [(head qk) (head vo)]",
          "fixed (head vo)", "fixed fixed wide", "wide fixed fixed",
          "fixed neuron* fixed", "fixed wide fixed", "wide neuron* fixed",
          "neuron wide* fixed fixed"]  # fmt: skip


@pytest.fixture(scope="module", params=["compiled", "numpy"], autouse=True)
def engine(request):
    """All of this file holds with the compiled kernel and without it."""
    saved = kernel.compiled
    if request.param == "compiled" and saved is None:
        pytest.skip("the kernel is not built here")
    kernel.compiled = saved if request.param == "compiled" else None
    yield
    kernel.compiled = saved


def drawn(text, seed, kind):
    parsed, draw = parse(text), gauge(seed, kind)
    change = TensorMap.of([axis.map(SPACES, draw, {}) for axis in parsed])
    return change, tuple(axis.size(SPACES) for axis in parsed)


def stored(values, dtype):
    return np.ascontiguousarray(values.astype(FORMATS[dtype].number)).reshape(-1).view(np.uint8)


def read(data, shape, dtype):
    return data.view(FORMATS[dtype].number).astype(np.float64).reshape(shape)


@pytest.mark.parametrize("dtype", ["F64", "F32", "BF16"])
@given(st.sampled_from(SHAPED), seeds, st.sampled_from([8, 64, 1 << 18]))
def test_lossless_maps_round_nothing(dtype, text, seed, block):
    change, shape = drawn(text, seed, Kind())
    lossless.BLOCK_BYTES, saved = block, lossless.BLOCK_BYTES
    try:
        values = np.random.default_rng(seed).normal(size=shape)
        values[values > 1] = 0
        data = stored(values, dtype)
        moved = change.apply(data, shape, dtype)
        np.testing.assert_array_equal(read(moved, shape, dtype), change(read(data, shape, dtype)))
        np.testing.assert_array_equal(change.inverse.apply(moved, shape, dtype), data)
    finally:
        lossless.BLOCK_BYTES = saved


@pytest.mark.parametrize("dtype", ["F16", "F8_E4M3", "F8_E5M2"])
@given(st.sampled_from(SHAPED), seeds)
def test_narrow_formats_move_by_permutations_and_signs(dtype, text, seed):
    change, shape = drawn(text, seed, Kind(scales=False))
    data = stored(np.random.default_rng(seed).normal(size=shape), dtype)
    moved = change.apply(data, shape, dtype)
    np.testing.assert_array_equal(read(moved, shape, dtype), change(read(data, shape, dtype)))
    np.testing.assert_array_equal(change.inverse.apply(moved, shape, dtype), data)


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
@given(st.sampled_from(SHAPED), seeds, st.sampled_from([8, 64, 1 << 18]))
def test_general_maps_round_once(dtype, text, seed, block):
    if "|" in text:
        return
    change, shape = drawn(text, seed, Kind(general=True))
    rounding.BLOCK_BYTES, saved = block, rounding.BLOCK_BYTES
    try:
        values = np.random.default_rng(seed).normal(size=shape)
        data = stored(values, dtype)
        exact = change(read(data, shape, dtype))
        moved = read(change.apply(data, shape, dtype), shape, dtype)
        unit = 2.0 ** -(FORMATS[dtype].mantissa + 1)
        np.testing.assert_allclose(
            moved, exact, rtol=unit * 1.001, atol=1e-7 * (dtype == "F16") + 1e-14
        )
    finally:
        rounding.BLOCK_BYTES = saved


@pytest.mark.parametrize("kind", [Kind(), Kind(general=True)])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_values_that_are_not_finite_are_refused_or_carried_along(kind, bad, dtype):
    kind = Kind(kind.general, scales=False)
    change, shape = drawn("wide neuron*", 1, kind)
    values = np.ones(shape)
    values[2, 3] = bad
    data = stored(values, dtype)
    with pytest.raises(InputError, match="NaN or infinite"):
        change.apply(data, shape, dtype)
    moved = read(change.apply(data, shape, dtype, allow_non_finite=True), shape, dtype)
    assert (~np.isfinite(moved)).sum() == 1
    assert (
        np.argwhere(~np.isfinite(moved)).tolist()
        == np.argwhere(~np.isfinite(change(np.where(np.isfinite(values), 1.0, np.nan)))).tolist()
    )


def test_a_tensor_that_stays_is_checked_too():
    stay = TensorMap((None,))
    with pytest.raises(InputError, match="NaN"):
        stay.apply(stored(np.array([1.0, np.nan]), "BF16"), (2,), "BF16")
    data = stored(np.array([1.0, 2.0]), "BF16")
    assert stay.apply(data, (2,), "BF16") is data


HALF = AxisMap.monomial(np.arange(2), np.array([0.5, 1.0]))
TWICE = AxisMap.monomial(np.arange(2), np.array([2.0, 1.0]))


@pytest.mark.parametrize(
    ("dtype", "change", "value"),
    [
        ("BF16", HALF, float(ml_dtypes.finfo(ml_dtypes.bfloat16).smallest_normal)),
        ("BF16", TWICE, float(ml_dtypes.finfo(ml_dtypes.bfloat16).max)),
        ("F32", HALF, float(np.finfo(np.float32).smallest_normal)),
        ("F32", TWICE, float(np.finfo(np.float32).max)),
        ("F32", TWICE, float(np.finfo(np.float32).smallest_subnormal)),
        ("F16", HALF, float(np.finfo(np.float16).smallest_normal)),
    ],
)
def test_a_power_of_two_that_the_format_cannot_hold_is_refused(dtype, change, value):
    data = stored(np.array([value, 1.0]), dtype)
    with pytest.raises(PrecisionError, match="cannot hold"):
        TensorMap((change,)).apply(data, (2,), dtype)
    # The same value where nothing is scaled, and zero where something is, are no obstacle.
    data = stored(np.array([0.0, value]), dtype)
    moved = read(TensorMap((change,)).apply(data, (2,), dtype), (2,), dtype)
    assert moved.tolist() == [0.0, value]


def test_signs_of_zeros_survive_there_and_back():
    flip = TensorMap((AxisMap.monomial(np.array([1, 0]), np.array([-2.0, 1.0])),))
    data = stored(np.array([0.0, -0.0]), "BF16")
    assert (flip.inverse.apply(flip.apply(data, (2,), "BF16"), (2,), "BF16") == data).all()


@pytest.mark.parametrize(
    ("dtype", "kind", "words"),
    [
        ("F8_E4M3", Kind(general=True), "can be moved but not rotated"),
        ("F8_E4M3", Kind(), "too narrow for powers of two"),
        ("I32", Kind(scales=False), "dtype I32 cannot be moved"),
        ("F4", Kind(scales=False), "dtype F4 cannot be moved"),
    ],
)
def test_formats_that_cannot_follow_are_refused_by_name(dtype, kind, words):
    change, shape = drawn("(head vo)", 2, kind)
    data = np.zeros(int(np.prod(shape)) * 4, np.uint8)
    with pytest.raises(UnsupportedError, match=words):
        change.apply(data, shape, dtype)


def test_an_overflow_under_rotation_is_refused():
    change = TensorMap((AxisMap.block(np.array([[2.0, 0.0], [0.0, 1.5]])),))
    data = stored(np.array([60000.0, 1.0]), "F16")
    with pytest.raises(PrecisionError, match="out of F16's range"):
        change.apply(data, (2,), "F16")


def test_three_moving_axes_are_refused():
    change = TensorMap((AxisMap.monomial(np.array([1, 0])),) * 3)
    with pytest.raises(UnsupportedError, match="at most two move"):
        change.apply(np.zeros(32, np.uint8), (2, 2, 2), "F32")


@pytest.mark.parametrize("kind", [Kind(), Kind(general=True)])
@given(st.sampled_from(SHAPED), seeds, st.sampled_from([1, 64, 256]))
def test_the_pieces_are_the_whole(kind, text, seed, size):
    change, shape = drawn(text, seed, kind)
    data = stored(np.random.default_rng(seed).normal(size=shape), "F32")
    whole = change.apply(data, shape, "F32")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensor_map, "PIECE", size)
        pieces = [piece.copy() for piece in change.pieces(data, shape, "F32")]
        joined = np.concatenate(pieces)
        # BLAS sums fewer rows in another order; nothing else may differ.
        np.testing.assert_allclose(
            *(x.view(np.float32) for x in (joined, whole)), rtol=1e-6, atol=1e-6
        )
        assert not change.is_lossless or (joined == whole).all()
    rows = change.axes[0] if len(change.axes) == 2 else None
    if rows and rows.is_lossless and not change.is_identity:
        most = max(size, shape[1] * 4)
        assert max(len(piece) for piece in pieces) <= most


def test_a_tensor_without_numbers_has_no_pieces():
    change = TensorMap.of([AxisMap.monomial(np.array([1, 0])), None])
    assert not sum(len(piece) for piece in change.pieces(np.empty(0, np.uint8), (2, 0), "F32"))
    change = TensorMap.of([None, AxisMap.monomial(np.array([1, 0]))])
    assert not sum(len(piece) for piece in change.pieces(np.empty(0, np.uint8), (0, 2), "F32"))


def _other_shapes(shape):
    """Shapes near a right one, and the right one with bytes too few and too many."""
    yield shape, -1
    yield shape, 1
    yield (*shape, 1), 0
    yield (1, *shape), 0
    for axis in range(len(shape)):
        for size in (0, shape[axis] // 2, shape[axis] + 1, 2 * shape[axis]):
            yield (*shape[:axis], size, *shape[axis + 1 :]), 0


@pytest.mark.parametrize("kind", [Kind(), Kind(general=True)], ids=["lossless", "general"])
@pytest.mark.parametrize("dtype", ["F32", "BF16"])
@pytest.mark.parametrize("text", ["neuron* wide", "wide [(head qk) (head vo)]", "wide"])
def test_a_tensor_of_another_shape_is_refused_before_it_is_read(text, dtype, kind):
    change, shape = drawn(text, 1, kind)
    for other, missing in _other_shapes(shape):
        data = stored(np.ones(max(0, int(np.prod(other)) + missing)), dtype)
        for one in (change, TensorChain((change, change))):
            with pytest.raises(InputError, match=r"shape \(") as caught:
                one.apply(data, other, dtype)
            assert "\n" not in str(caught.value)
            with pytest.raises(InputError):
                list(one.pieces(data, other, dtype))
        if missing:
            with pytest.raises(InputError, match="bytes instead of"):
                TensorMap(()).apply(data, other, dtype)
