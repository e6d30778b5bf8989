"""How far a shift is moved back: to where it and what took it up are closest to the base's."""

import numpy as np

from unmergeable.architectures.shifts import Taker
from unmergeable.attacks.alignment.shifts import _nearest


def case(tuning, seed=0, size=12, rows=(9, 20)):
    """A shift through two matrices, and what fine-tuning moved beside it."""
    random = np.random.default_rng(seed)
    shift = random.standard_normal(size)
    off, seen = shift + tuning * random.standard_normal(size), []
    for number in rows:
        matrix = random.standard_normal((number, size))
        taken = tuning * random.standard_normal(number) - matrix @ shift
        taker = Taker("matrix", 1, np.arange(size), "bias")
        seen.append((matrix, taker, taken))
    return shift, off, seen


def test_the_split_is_the_least_squares_one():
    _, off, seen = case(0.1)
    stacked = np.concatenate([np.eye(len(off)), *(-matrix for matrix, _, _ in seen)])
    wanted = np.concatenate([np.zeros(len(off)), *(-(r + m @ off) for m, _, r in seen)])
    best = np.linalg.lstsq(stacked, wanted)[0]
    found = _nearest(off, seen)
    assert np.allclose(found, best, atol=1e-9)
    assert np.linalg.norm(found) > 1e-3  # the base's own bias is not the nearest


def test_a_bias_that_nothing_took_up_stays():
    random = np.random.default_rng(1)
    off = random.standard_normal(12)
    seen = [(m, taker, 0.01 * random.standard_normal(len(r))) for m, taker, r in case(0.1)[2]]
    assert _nearest(off, seen) is None


def test_what_no_output_sees_goes_back_whole():
    assert not _nearest(np.ones(5), []).any()
