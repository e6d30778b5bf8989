"""Several maps of one tensor: in their order, undone in reverse, rounded once."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.gauge.strategies import seeds
from tests.gauge.test_tensor_map import SHAPED, drawn, read, stored
from unmergeable.errors import InputError, PrecisionError, UnsupportedError
from unmergeable.gauge.axis_map import AxisMap
from unmergeable.gauge.floats import FORMATS
from unmergeable.gauge.groups import Kind
from unmergeable.gauge.tensor_chain import TensorChain
from unmergeable.gauge.tensor_map import TensorMap

texts = st.sampled_from([text for text in SHAPED if "|" not in text])
GENERAL, LOSSLESS = Kind(general=True), Kind(scales=False)


def chained(text, seed, kinds):
    drawn_maps = [drawn(text, seed + place, kind) for place, kind in enumerate(kinds)]
    return TensorChain.of([change for change, _ in drawn_maps]), drawn_maps[0][1]


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16", "F8_E4M3"])
@given(texts, seeds)
def test_lossless_chains_round_nothing_and_come_back(dtype, text, seed):
    change, shape = chained(text, seed, [LOSSLESS] * 3)
    data = stored(np.random.default_rng(seed % 2**32).normal(size=shape), dtype)
    moved = change.apply(data, shape, dtype)
    np.testing.assert_array_equal(read(moved, shape, dtype), change(read(data, shape, dtype)))
    np.testing.assert_array_equal(change.inverse.apply(moved, shape, dtype), data)


@pytest.mark.parametrize("kinds", [[GENERAL, GENERAL], [LOSSLESS, GENERAL], [GENERAL, LOSSLESS]])
@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
@given(texts, seeds)
def test_a_chain_rounds_once(dtype, kinds, text, seed):
    change, shape = chained(text, seed, kinds)
    data = stored(np.random.default_rng(seed % 2**32).normal(size=shape), dtype)
    exact = change(read(data, shape, dtype))
    moved = read(change.apply(data, shape, dtype), shape, dtype)
    unit = 2.0 ** -(FORMATS[dtype].mantissa + 1)
    np.testing.assert_allclose(
        moved, exact, rtol=unit * 1.001, atol=1e-7 * (dtype == "F16") + 1e-13
    )
    back = change.inverse(exact)
    np.testing.assert_allclose(back, read(data, shape, dtype), atol=1e-12)


def test_the_order_counts():
    turn = TensorMap.of([AxisMap.monomial(np.array([1, 2, 0]))])
    scale = TensorMap.of([AxisMap.monomial(np.arange(3), np.array([1.0, 3.0, 5.0]))])
    values = np.array([1.0, 10.0, 100.0])
    np.testing.assert_array_equal(TensorChain.of([turn, scale])(values), [10.0, 300.0, 5.0])
    np.testing.assert_array_equal(TensorChain.of([scale, turn])(values), [30.0, 500.0, 1.0])


def test_maps_that_do_nothing_leave_the_chain():
    turn, nothing = TensorMap.of([AxisMap.monomial(np.array([1, 0]))]), TensorMap.of([None])
    assert TensorChain.of([nothing, turn, nothing]) is turn
    assert TensorChain.of([nothing, nothing]).is_identity


@pytest.mark.parametrize(
    ("dtype", "value", "allow", "error"),
    [
        ("F8_E4M3", 1.0, False, UnsupportedError),
        ("F16", np.inf, False, InputError),
        ("F16", 60000.0, False, PrecisionError),
        ("F16", np.inf, True, None),
    ],
)
def test_what_a_format_cannot_hold_is_refused(dtype, value, allow, error):
    turn = TensorMap.of([AxisMap.monomial(np.array([1, 0]))])
    scale = TensorMap.of([AxisMap.monomial(np.arange(2), np.array([3.0, 3.0]))])
    data = stored(np.array([value, 1.0]), dtype)
    chain = TensorChain.of([turn, scale])
    if error is None:
        moved = read(chain.apply(data, (2,), dtype, allow_non_finite=allow), (2,), dtype)
        np.testing.assert_array_equal(moved, [3.0, np.inf])
        return
    with pytest.raises(error):
        chain.apply(data, (2,), dtype, allow_non_finite=allow)


@pytest.mark.parametrize("held", [1, 40, 1 << 22])
@pytest.mark.parametrize("kinds", [[GENERAL, GENERAL], [LOSSLESS, GENERAL, LOSSLESS]])
@given(st.sampled_from(list(SHAPED)), seeds)
def test_pieces_of_rows_are_what_the_whole_is(held, kinds, text, seed):
    change, shape = chained(text, seed, kinds)
    data = stored(np.random.default_rng(seed % 2**32).normal(size=shape), "F32")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("unmergeable.gauge.tensor_chain.HELD", held)
        moved = read(change.apply(data, shape, "F32"), shape, "F32")
    exact = change(read(data, shape, "F32"))
    np.testing.assert_allclose(moved, exact, rtol=2.0**-24 * 1.001, atol=1e-13)


def test_a_chain_holds_a_piece_and_not_the_tensor():
    """Heads change places, and each is turned: 64 blocks of 8 rows, 16 MB in float64."""
    draw = np.random.default_rng(0)
    heads = draw.permutation(64)
    order = AxisMap.monomial((8 * heads[:, None] + np.arange(8)).reshape(-1))
    turns = AxisMap(np.arange(512), (np.linalg.qr(draw.normal(size=(64, 8, 8)))[0],))
    columns = AxisMap.monomial(draw.permutation(4096), draw.normal(size=4096))
    maps = [
        TensorMap.of([turns, None]),
        TensorMap.of([order, columns]),
        TensorMap.of([turns, None]),
    ]
    chain = TensorChain.of(maps)
    data = stored(draw.normal(size=(512, 4096)), "BF16")
    whole = chain.apply(data, (512, 4096), "BF16")
    peaks = []
    for held in (1 << 22, 1 << 17):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("unmergeable.gauge.tensor_chain.HELD", held)
            tracemalloc.start()
            moved = chain.apply(data, (512, 4096), "BF16")
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        np.testing.assert_array_equal(moved, whole)
    assert peaks[1] < 12 << 20 < 32 << 20 < peaks[0]


def test_a_lossless_chain_holds_two_tensors_besides_the_one_that_it_is_given():
    """As `Chain.copies` says."""
    random = np.random.default_rng(0)
    turns = [TensorMap.of([AxisMap.monomial(random.permutation(1 << 10)), None]) for _ in range(3)]
    data = stored(random.normal(size=(1 << 10, 1 << 10)), "F32")
    change = TensorChain.of(turns)
    change.apply(data, (1 << 10, 1 << 10), "F32")  # maps keep what they work out once
    tracemalloc.start()
    change.apply(data, (1 << 10, 1 << 10), "F32")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 1.9 * data.nbytes < peak < 2.2 * data.nbytes
