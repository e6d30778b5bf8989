import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.gauge.strategies import matrix, randomness, seeds
from unmergeable.gauge.groups import GROUPS, Kind

names = st.sampled_from(sorted(GROUPS))
ROTARY = [name for name in GROUPS if name.startswith("rotary")]


@given(names, seeds, st.booleans())
def test_lossless_elements_move_signs_exponents_and_places_only(name, seed, scales):
    change = GROUPS[name].draw(8, randomness(seed), Kind(scales=scales))
    assert change.is_lossless
    assert sorted(change.source) == list(range(8))
    magnitudes = set(np.abs(change.scale))
    assert magnitudes <= ({0.5, 1.0, 2.0} if scales else {1.0})


@given(names, seeds)
def test_general_elements_are_well_conditioned(name, seed):
    change = GROUPS[name].draw(8, randomness(seed), Kind(general=True))
    assert np.linalg.cond(matrix(change)) <= 4 + 1e-9


@given(st.sampled_from(ROTARY), seeds, st.booleans(), st.floats(-10, 10))
def test_rotary_elements_commute_with_every_rotation(name, seed, general, angle):
    group = GROUPS[name]
    g = matrix(group.draw(8, randomness(seed), Kind(general=general)))
    real, imaginary = group.planes(8)
    rotation = np.zeros((8, 8))
    for frequency, (a, b) in enumerate(zip(real, imaginary, strict=True)):
        turn = angle * 0.5**frequency
        rotation[a, a] = rotation[b, b] = math.cos(turn)
        rotation[b, a] = math.sin(turn)
        rotation[a, b] = -math.sin(turn)
    np.testing.assert_allclose(g @ rotation, rotation @ g, atol=1e-12)


def test_the_two_rotary_layouts_pair_different_positions():
    half, interleaved = (GROUPS[name] for name in ("rotary half", "rotary interleaved"))
    assert [list(part) for part in half.planes(4)] == [[0, 1], [2, 3]]
    assert [list(part) for part in interleaved.planes(4)] == [[0, 2], [1, 3]]
    with pytest.raises(ValueError, match="planes of two"):
        half.planes(5)


@pytest.mark.parametrize(
    ("name", "size", "count"),
    [
        ("permutation", 3, 6),
        ("signed permutation", 2, 8),
        ("scaled permutation", 1, 6),
        ("positive scaled permutation", 2, 18),
        ("linear", 1, 6),
        ("rotary half", 2, 12),
        ("rotary interleaved", 4, 144),
        ("rotary interleaved turns", 4, 16),
        ("rotary half quarter turns", 4, 16),
        ("rotary half signs", 4, 4),
        ("rotary axial signs", 4, 4),
    ],
)
def test_bits_are_the_logarithm_of_how_many_elements_are_drawn(name, size, count):
    stream, kind = randomness(1), Kind()
    draws = 60 * count
    seen = Counter(matrix(GROUPS[name].draw(size, stream, kind)).tobytes() for _ in range(draws))
    assert len(seen) == count
    assert GROUPS[name].bits(size, kind) == pytest.approx(math.log2(count))
    # Uniform: chi-square within five standard deviations of its mean.
    chi = sum((n - 60) ** 2 / 60 for n in seen.values())
    assert abs(chi - (count - 1)) < 5 * math.sqrt(2 * (count - 1))


@given(seeds, st.booleans())
def test_a_norm_without_gains_does_not_see_turns(seed, general):
    change = GROUPS["rotary interleaved turns"].draw(8, randomness(seed), Kind(general=general))
    g = matrix(change)
    np.testing.assert_allclose(g @ g.T, np.eye(8), atol=1e-12)
    np.testing.assert_allclose(matrix(change.dual), g, atol=1e-12)
    assert change.is_lossless != general


@given(st.sampled_from(["rotary half quarter turns", "rotary half signs"]), seeds, st.booleans())
def test_whole_parts_of_a_turn_pass_a_root_mean_square_and_a_clamp(name, seed, general):
    g = GROUPS[name].draw(8, randomness(seed), Kind(general=general))
    x, gains = np.random.default_rng(seed).normal(size=(2, 8))
    np.testing.assert_array_equal(matrix(g) @ matrix(g).T, np.eye(8))
    np.testing.assert_array_equal(g(np.clip(x, -0.5, 0.5)), np.clip(g(x), -0.5, 0.5))
    np.testing.assert_array_equal(g(gains * x), g.order(gains) * g(x))
    if name == "rotary half signs":  # gains stay where they are
        np.testing.assert_array_equal(g.order(gains), gains)


@given(seeds)
def test_the_nearest_part_of_a_turn_is_the_nearest(seed):
    draw = np.random.default_rng(seed)
    numbers = draw.normal(size=5) + 1j * draw.normal(size=5)
    free = GROUPS["rotary interleaved turns"].nearest(numbers)
    np.testing.assert_allclose(free, numbers / np.abs(numbers), atol=1e-15)
    for name, known in (
        ("rotary half quarter turns", np.array([1, 1j, -1, -1j])),
        ("rotary half signs", np.array([1, -1])),
    ):
        found = GROUPS[name].nearest(numbers)
        gaps = np.abs(numbers[:, None] / np.abs(numbers)[:, None] - known)
        np.testing.assert_array_equal(found, known[gaps.argmin(1)])


def test_without_scales_the_secret_is_smaller_by_what_the_scales_held():
    group = GROUPS["scaled permutation"]
    with_scales, without = group.bits(10, Kind()), group.bits(10, Kind(scales=False))
    assert with_scales - without == pytest.approx(10 * math.log2(3))
    assert GROUPS["linear"].bits(10, Kind(general=True)) == 0


def test_orthogonal_matrices_are_orthogonal_and_not_biased_to_one_determinant():
    stream = randomness(3)
    drawn = [stream.orthogonal(5) for _ in range(40)]
    for q in drawn:
        np.testing.assert_allclose(q @ q.T, np.eye(5), atol=1e-12)
    signs = [np.sign(np.linalg.det(q)) for q in drawn]
    assert 8 <= signs.count(1.0) <= 32


def test_integers_below_a_bound_have_no_modulo_bias():
    class Edge:
        """Words at the top of the range, which a plain modulo would fold onto small values."""

        def __init__(self):
            self.calls = 0

        def __call__(self, count):
            self.calls += 1
            word = 2**64 - 1 if self.calls == 1 else 7
            return word.to_bytes(8, "little") * (count // 8)

    from unmergeable.gauge.randomness import Randomness

    edge = Edge()
    assert list(Randomness(edge).below(10, 3)) == [7, 7, 7]
    assert edge.calls == 2
