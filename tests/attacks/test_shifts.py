"""How far a shift is moved back: to where it and what took it up are closest to the base's."""

import os
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from unmergeable.architectures.shifts import Shift, Taker
from unmergeable.attacks.alignment.shifts import Shifts, _nearest
from unmergeable.gauge import memory


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


@pytest.mark.parametrize("at_once", [1, 2])
def test_shifts_in_work_hold_no_more_than_the_budget_and_borrow_from_the_arena(
    monkeypatch, at_once
):
    """Each holds a matrix of both models in float32, and what stands beside the bias."""
    takers = (Taker("matrix", 1, np.arange(8), "taken"),)
    shapes = {"matrix": (512, 8), "gain": (8,)}
    shifts = object.__new__(Shifts)
    shifts._shifts = [Shift(f"bias {n}", np.arange(8), "gain", takers) for n in range(6)]
    shifts._protected = SimpleNamespace(entry=lambda name: SimpleNamespace(shape=shapes[name]))
    shifts._by, arena = {}, memory.Arena(1 << 16)
    lock, running, most = threading.Lock(), 0, 0

    def found(self, shift):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1
        assert memory._current.get() is arena
        return {shift.adder: np.ones(8), "taken": np.ones(8)}

    monkeypatch.setattr(Shifts, "_found", found)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(6))
    each = 4 * (2 * 512 * 8 + 8)
    shifts.settle(arena, (at_once + 1) * each - 1)
    assert most == at_once
    assert shifts._by["taken"].tolist() == [6] * 8 and len(shifts._by) == 7
