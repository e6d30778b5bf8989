"""Functions as jobs, on every executor that the benchmark may be given."""

import os
from pathlib import Path

import pytest

from unmergeable.bench.field.workers import processes, run_all
from unmergeable.errors import InputError, MissingExtraError
from unmergeable.models.device import chosen, running_on


def square(number):
    return number * number


def square_and_process(number):
    return square(number), os.getpid()


def results(function, arguments, workers="1"):
    found = []
    run_all(function, arguments, workers, found.append)
    return found


def test_every_call_gives_its_result_in_another_process():
    found = results(square_and_process, range(5), "2")
    assert sorted(result for result, _ in found) == [0, 1, 4, 9, 16]
    assert os.getpid() not in {process for _, process in found}
    assert results(square, [], "2") == []


def device_asked_for(number):
    return chosen()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_workers_run_models_where_they_were_asked_to(workers):
    with running_on("cpu"):
        assert results(device_asked_for, [1], workers) == ["cpu"]
    assert results(device_asked_for, [1], workers) == ["auto"]


def test_one_worker_is_this_process_and_keeps_the_order():
    assert results(square_and_process, [3, 1, 2]) == [(n, os.getpid()) for n in (9, 1, 4)]
    assert results(square, []) == []


@pytest.mark.parametrize(("workers", "count"), [("1", 1), ("3", 3)])
def test_numbers_are_processes(workers, count):
    assert processes(workers) == count


@pytest.mark.parametrize("wrong", ["0", "-1", "many", "ray:/x"])
def test_workers_that_are_none_are_refused(wrong):
    with pytest.raises(InputError, match="workers="):
        processes(wrong)


def test_without_ray_the_error_says_what_to_install():
    try:
        import ray  # noqa: F401
    except ModuleNotFoundError:
        with pytest.raises(MissingExtraError, match=r"unmergeable\[ray\]"):
            results(square, [1], "ray")


def test_a_local_ray_cluster_gives_the_same(tmp_path):
    ray = pytest.importorskip("ray")
    root = str(Path(__file__).parents[3])
    ray.init(num_cpus=2, runtime_env={"env_vars": {"PYTHONPATH": root}}, log_to_driver=False)
    try:
        assert sorted(results(square, range(4), "ray")) == [0, 1, 4, 9]
    finally:
        ray.shutdown()
