"""Distances of stored tensors, against the definition on whole arrays."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from unmergeable.gauge.floats import FORMATS
from unmergeable.verification import stored_distance as module
from unmergeable.verification.stored_distance import stored_distance

TOGETHER = 8


@pytest.fixture(autouse=True)
def few_numbers_together(monkeypatch):
    monkeypatch.setattr(module, "_TOGETHER", TOGETHER)


def stored(values, dtype):
    return np.asarray(values).astype(FORMATS[dtype].number).view(np.uint8)


class Wanted:
    """Bytes that note what was asked for."""

    def __init__(self, data):
        self.data, self.asked = data, []

    def __call__(self, start, stop):
        self.asked.append((start, stop))
        assert 0 <= start < stop <= len(self.data)
        return self.data[start:stop].copy()


def cut(data, places, width):
    """In pieces that lie in the same memory, one after the other."""
    memory = np.empty_like(data)
    edges = [0, *sorted(place * width for place in places), len(data)]
    for start, stop in itertools.pairwise(edges):
        memory[: stop - start] = data[start:stop]
        yield memory[: stop - start]


FLOATS = sorted(FORMATS)


@given(
    st.sampled_from(FLOATS), st.sampled_from(FLOATS), st.integers(0, 60),
    st.lists(st.integers(0, 60), max_size=4), st.integers(0, 99),
)  # fmt: skip
def test_it_is_the_distance_of_whole_arrays(dtype, other, first, places, seed):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(60)
    want = stored(values, dtype)
    values[first:] += rng.uniform(1, 2, 60 - first)  # more than any format rounds
    have = stored(values, other)
    width = FORMATS[other].number.itemsize
    found = stored_distance(Wanted(want), dtype, cut(have, places, width), other)
    if dtype == other and first == 60:
        assert found.relative is None
        return
    x, y = FORMATS[dtype].values(want), FORMATS[other].values(have)
    assert_allclose(found.norm, np.linalg.norm(x), rtol=1e-12)
    assert_allclose(found.relative, np.linalg.norm(x - y) / np.linalg.norm(x), rtol=1e-12)


@pytest.mark.parametrize(("first", "again"), [(0, 0), (40, 40), (60, 0)])
def test_only_what_comes_before_the_first_difference_is_read_again(first, again):
    values = np.arange(1.0, 61.0)
    wanted = Wanted(stored(values, "F32"))
    values[first : first + 1] += 1
    stored_distance(wanted, "F32", cut(stored(values, "F32"), [20], 4), "F32")
    count = sum(stop - start for start, stop in wanted.asked)
    inside = again - (again - 20) % TOGETHER if again else 0  # the look begins at whole pieces
    assert count == 4 * (60 + inside)
    assert max(stop - start for start, stop in wanted.asked) <= 4 * TOGETHER


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_what_is_not_finite_is_infinitely_far_unless_it_is_the_same(bad):
    values = np.ones(20)
    plain = stored(values, "F32")
    values[13] = bad
    odd = stored(values, "F32")
    for one, two in ((plain, odd), (odd, plain)):
        assert stored_distance(Wanted(one), "F32", [two], "F32").relative == math.inf
    assert stored_distance(Wanted(odd), "F32", [odd], "F32").relative is None
    values[2] = 2
    other = stored(values, "F32")
    assert stored_distance(Wanted(odd), "F32", [other], "F32").relative == math.inf


def test_another_sign_of_zero_is_a_difference_of_no_size():
    found = stored_distance(Wanted(stored([0.0], "F32")), "F32", [stored([-0.0], "F32")], "F32")
    assert found == (0.0, 1.0)


def test_the_same_bits_in_another_dtype_are_a_difference():
    bits = stored(np.ones(20), "BF16")
    ones = 20**0.5
    found = stored_distance(Wanted(bits), "BF16", [bits], "F16")
    assert found.norm == pytest.approx(ones) and found.relative > 0.5


@pytest.mark.parametrize(
    ("dtype", "other", "value", "relative"),
    [("I64", "I64", 7, None), ("I64", "I64", 8, math.inf), ("I64", "F64", 7, math.inf),
     ("F64", "I64", 7, math.inf)],
)  # fmt: skip
def test_a_dtype_without_numbers_is_the_same_or_infinitely_far(dtype, other, value, relative):
    want = np.full(20, 7, "<i8").view(np.uint8)
    have = np.array([*[7] * 19, value], "<i8").view(np.uint8)
    pieces = cut(have, [9], 8)
    assert stored_distance(Wanted(want), dtype, pieces, other).relative == relative
