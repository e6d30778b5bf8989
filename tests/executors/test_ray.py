"""A real Ray cluster of two nodes on this machine: processes and a node are lost, nothing else is.

Skipped where ray is not installed: pip install 'unmergeable[ray]'.
"""

import errno
import os
import signal
import threading
import time

import pytest

from tests.executors.jobs import Mortal, Spell
from tests.executors.two_nodes import lose_one, two_nodes
from tests.tiny import content, llama
from unmergeable.checkpoint.folder import open_folder
from unmergeable.checkpoint.manifest import read_manifest
from unmergeable.checkpoint.plan import Plan
from unmergeable.checkpoint.rewrite import carry_out
from unmergeable.checkpoint.staging import Staging
from unmergeable.checkpoint.target import FolderTarget
from unmergeable.errors import ClusterError, InputError, PrecisionError
from unmergeable.executors.executor import executor_of
from unmergeable.keys.key import Key
from unmergeable.protection.protect import protect, unlock
from unmergeable.protection.recipe import LockRecipe

ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'unmergeable[ray]'")
KEY = Key(bytes(range(32)))


@pytest.fixture(scope="module")
def cluster():
    with two_nodes() as cluster:
        yield cluster


@pytest.fixture
def model(tmp_path):
    return llama(tmp_path / "m", shards=6)


@pytest.fixture
def locked(tmp_path, model):
    protect(model, tmp_path / "locked", KEY, workers=1)
    return tmp_path / "locked"


def run(folder, items, done=lambda count: None):
    made = {}
    executor_of("ray").run(
        Spell(folder), items, secret=b"s", advance=done, finished=made.__setitem__
    )
    return made


def test_results_and_progress_come_back(cluster, tmp_path):
    done = []
    items = [f"item {n}" for n in range(5)]
    assert run(tmp_path, items, done.append) == {item: f"{item} s 1" for item in items}
    assert done == [6] * 5
    assert run(tmp_path, []) == {}


def test_a_process_that_dies_is_replaced(cluster, tmp_path):
    assert run(tmp_path, ["a", "mortal", "b"]) == {n: f"{n} s 1" for n in ("a", "mortal", "b")}
    assert (tmp_path / "died").exists()


def test_a_keeper_that_dies_is_replaced(cluster, tmp_path):
    """It is killed when the first item is done; the key is needed once more for the second."""
    killed = []

    def kill(done):
        if not killed:
            killed.append(True)
            for state in ray._private.state.actors().values():
                if state["State"] == "ALIVE":
                    os.kill(state["Pid"], signal.SIGKILL)

    items = [f"item {n}" for n in range(6)]
    assert run(tmp_path, items, kill) == {item: f"{item} s 1" for item in items}
    assert killed


@pytest.mark.parametrize(
    ("item", "kind", "message"),
    [
        ("refused", PrecisionError, "refused on purpose"),
        ("unreadable", OSError, "somewhere"),
        ("fault", ClusterError, "gave up on fault: ZeroDivisionError"),
    ],
)
def test_what_a_job_raises_comes_back(cluster, tmp_path, item, kind, message):
    with pytest.raises(kind, match=message) as caught:
        run(tmp_path, [item])
    assert type(caught.value) is kind
    assert kind is not OSError or caught.value.errno == errno.EIO


def test_a_job_that_always_kills_its_process_is_given_up(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr("unmergeable.executors.on_ray.RETRIES", 1)
    with pytest.raises(ClusterError, match="gave up on deadly"):
        run(tmp_path, ["deadly"])


def test_locking_survives_a_killed_worker_and_nothing_differs(cluster, tmp_path, model, locked):
    folder = open_folder(model)
    links = read_manifest(locked).chain
    plain = LockRecipe.of(folder, links, back=False, allow_non_finite=False)
    mortal = Mortal(plain, "model.layers.1.mlp.gate_proj.weight", tmp_path)
    with Staging(tmp_path / "out", "work") as staging:
        plan = Plan.of(folder, mortal, staging)
        carry_out(plan, staging, executor_of("ray"), secret=KEY.secret)
        staging.publish()
    assert (tmp_path / "died").exists()
    wanted = content(locked)
    assert content(tmp_path / "out") == {n: wanted[n] for n in wanted if n.endswith("tensors")}


def test_locking_and_unlocking_give_the_same_as_here(cluster, tmp_path, model, locked):
    done = []
    protect(model, tmp_path / "out", KEY, workers="ray", progress=done.append)
    assert content(tmp_path / "out") == content(locked)
    assert done[-1].done == sum(e.size for e in open_folder(model).tensors.values())
    assert unlock(tmp_path / "out", tmp_path / "back", KEY, workers="ray").exact
    assert content(tmp_path / "back") == content(model)


def test_a_refused_weight_leaves_nothing(cluster, tmp_path, model):
    path = model / "model-00006-of-00006.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\x00\x00\xc0\x7f")
    with pytest.raises(InputError, match="NaN or infinite"):
        protect(model, tmp_path / "out", KEY, workers="ray")
    assert {path.name for path in tmp_path.iterdir()} == {"m"}


def test_a_place_that_the_cluster_does_not_see_is_named(cluster, tmp_path, model, monkeypatch):
    away = FolderTarget(tmp_path / "away", tmp_path / "away")
    monkeypatch.setattr(FolderTarget, "check_space", lambda self, sizes: None)
    monkeypatch.setattr(Staging, "target", away)
    with pytest.raises(ClusterError, match=r"does not see .*away"):
        protect(model, tmp_path / "out", KEY, workers="ray")


def test_an_interrupt_stops_the_cluster_too(cluster, tmp_path):
    def interrupt(done):
        while not (tmp_path / "slow").exists():
            time.sleep(0.02)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, ["a", "slow", "slow"], interrupt)
    start = time.monotonic()
    assert run(tmp_path, ["b"]) == {"b": "b s 1"}  # processors are free again
    assert time.monotonic() - start < 30


def test_a_node_that_is_lost_is_replaced(cluster, tmp_path, locked):
    """Last, as it takes a node away: the second one, while it works."""
    model = llama(
        tmp_path / "larger", "BF16", shards=12, hidden_size=256, intermediate_size=512,
        num_hidden_layers=12,
    )  # fmt: skip
    protect(model, tmp_path / "wanted", KEY, workers=1)
    first_done, gone = threading.Event(), threading.Event()

    def lose():
        first_done.wait(60)
        lose_one(cluster)
        gone.set()

    thread = threading.Thread(target=lose)
    thread.start()

    def progress(done):
        first_done.set()
        gone.wait(60)

    protect(model, tmp_path / "out", KEY, workers="ray", progress=progress)
    thread.join()
    assert gone.is_set()
    assert content(tmp_path / "out") == content(tmp_path / "wanted")


def test_no_cluster_is_said_so(monkeypatch, tmp_path, model):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)

    def refuse(*args, **kwargs):
        raise ConnectionError("Could not find any running Ray instance.\nPlease specify")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(ClusterError, match=r"no Ray cluster at 'ray'.*ray start --head"):
        protect(model, tmp_path / "out", KEY, workers="ray")
    assert not (tmp_path / "out").exists()
