"""Jobs on threads: their results come in order, and what they hold stays within the budget."""

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial

import pytest

from unmergeable.checkpoint.in_order import in_order


@pytest.fixture
def pool():
    with ThreadPoolExecutor(4) as pool:
        yield pool


def test_results_come_in_the_order_of_the_jobs(pool):
    def job(number):
        time.sleep(0.002 * (7 - number))
        return number

    jobs = [(1, partial(job, number)) for number in range(8)]
    assert list(in_order(pool, jobs, 100)) == list(range(8))


@pytest.mark.parametrize(("budget", "most"), [(1, 1), (9, 1), (20, 2), (35, 3), (1000, 8)])
def test_the_budget_bounds_what_was_drawn_and_not_yet_dropped(pool, budget, most):
    drawn = dropped = highest = 0

    def jobs():
        nonlocal drawn, highest
        for number in range(8):
            drawn += 1
            highest = max(highest, drawn - dropped)
            yield 10, lambda number=number: number

    for _ in in_order(pool, jobs(), budget):
        dropped += 1
    # One job is drawn to see its size, and waits until there is room.
    assert highest == min(8, most + 1)
    assert dropped == 8


def test_closing_waits_for_what_runs_and_cancels_the_rest(pool):
    begun, go, ended = threading.Semaphore(0), threading.Event(), []

    def job(number):
        if number:
            begun.release()
            go.wait(5)
        ended.append(number)

    with closing(in_order(pool, [(1, partial(job, n)) for n in range(20)], 12)) as results:
        next(results)
        for _ in range(4):
            begun.acquire(timeout=5)
        threading.Timer(0.05, go.set).start()
    count = len(ended)
    assert count == 5  # the first one, and those that ran on the four threads
    time.sleep(0.01)
    assert len(ended) == count


def test_an_error_comes_in_its_turn_and_stops_the_rest(pool):
    ran = []

    def job(number):
        ran.append(number)
        if number == 2:
            raise ValueError("two")
        return number

    seen = []
    with pytest.raises(ValueError, match="two"):
        for number in in_order(pool, [(5, partial(job, n)) for n in range(50)], 10):
            seen.append(number)
    assert seen == [0, 1]
    assert len(ran) < 10


def test_none_among_the_jobs_lets_one_land_before_the_next_is_drawn(pool):
    landed, seen = [], []

    def jobs():
        yield None  # where nothing is in flight, there is nothing to wait for
        for number in range(6):
            if number >= 2:
                yield None
            seen.append((number, len(landed)))
            yield 1, lambda number=number: number

    for number in in_order(pool, jobs(), 100):
        landed.append(number)
    assert landed == list(range(6))
    assert seen == [(0, 0), (1, 0), (2, 1), (3, 2), (4, 3), (5, 4)]


def test_an_interrupt_while_a_job_runs_waits_for_it(pool, monkeypatch):
    ended = threading.Event()

    def job():
        time.sleep(0.05)
        ended.set()

    def interrupted(future, timeout=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(Future, "result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(in_order(pool, [(1, job)], 1))
    assert ended.is_set()
