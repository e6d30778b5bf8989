"""The arena lends each byte to one array at a time and gets all of them back."""

import gc
import itertools
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unmergeable.gauge.memory import Arena, empty

SIZE = 1 << 20


def where(array):
    return array.__array_interface__["data"][0]


@given(st.lists(st.tuples(st.integers(1, SIZE // 3), st.integers(0, 5)), max_size=40))
def test_loans_never_overlap_and_all_come_back(steps):
    arena, held = Arena(SIZE), []
    for number, (count, drop) in enumerate(steps):
        block = arena.lend(count)
        if block is None:
            # There really is no room: what is held leaves no gap of that size.
            ends = sorted([(where(b), where(b) + -(-b.size // 4096) * 4096) for b, _ in held])
            start = where(arena._memory)
            edges = [(start, start), *ends, (start + SIZE, start + SIZE)]
            gaps = [b[0] - a[1] for a, b in itertools.pairwise(edges)]
            assert max(gaps) < -(-count // 4096) * 4096
        else:
            block[:] = number % 251
            held.append((block, number % 251))
        if drop < len(held):
            held.pop(drop)
    assert all((block == mark).all() for block, mark in held)
    held.clear()
    block = None
    assert arena.room == SIZE


def test_a_view_keeps_its_memory():
    arena = Arena(SIZE)
    view = arena.lend(1 << 17).view(np.uint16).reshape(-1, 16)[3:5]
    view[:] = 7
    other = arena.lend(SIZE // 2)
    other[:] = 1
    assert (view == 7).all()
    start = where(view)
    del view
    assert where(arena.lend(1 << 17)) < start


def test_memory_outlives_its_arena():
    block = Arena(SIZE).lend(SIZE)
    gc.collect()
    block[:] = 3
    assert int(block.sum(dtype=np.int64)) == 3 * SIZE


def test_an_arena_is_used_in_its_thread_and_as_long_as_it_has_room():
    arena = Arena(SIZE)
    start = where(arena._memory)

    def inside(array):
        return start <= where(array) < start + SIZE

    with arena.used():
        first, second, small = empty(SIZE * 3 // 4), empty(SIZE * 3 // 4), empty(100)
        assert inside(first)
        assert not inside(second)
        assert not inside(small)
        del first
        again = empty(SIZE)
        assert inside(again)
        del again
        elsewhere = []
        thread = threading.Thread(target=lambda: elsewhere.append(inside(empty(SIZE))))
        thread.start()
        thread.join()
        assert elsewhere == [False]
    assert not inside(empty(SIZE))


@pytest.mark.parametrize("threads", [4])
def test_threads_share_an_arena(threads):
    arena, wrong = Arena(SIZE), []

    def work(mark):
        random = np.random.default_rng(mark)
        for _ in range(300):
            block = arena.lend(int(random.integers(1, SIZE // 6)))
            if block is not None:
                block[:] = mark
                if not (block == mark).all():
                    wrong.append(mark)

    workers = [threading.Thread(target=work, args=(mark,)) for mark in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
    assert arena.room == SIZE


def test_without_room_for_an_arena_each_array_has_memory_of_its_own(monkeypatch):
    def refuse(*args):
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("mmap.mmap", refuse)
    arena = Arena(SIZE)
    assert arena.lend(SIZE) is None
    assert arena.room == 0
    with arena.used():
        assert empty(SIZE).size == SIZE


def test_without_large_pages_an_arena_works_as_well(monkeypatch):
    monkeypatch.setattr("mmap.MADV_HUGEPAGE", -1, raising=False)  # which the system refuses
    assert Arena(SIZE).lend(SIZE).size == SIZE
