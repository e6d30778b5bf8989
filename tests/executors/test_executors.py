"""Executors that stay on this machine, what users may say, and secrets under way."""

import pickle
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.executors.jobs import Spell
from tests.tiny import content, llama
from unmergeable.checkpoint.folder import open_folder
from unmergeable.checkpoint.plan import Plan
from unmergeable.checkpoint.rewrite import carry_out
from unmergeable.checkpoint.shards import Shards
from unmergeable.checkpoint.staging import Staging
from unmergeable.cli import main
from unmergeable.errors import ClusterError, InputError, KeyFileError, PrecisionError
from unmergeable.executors.executor import SERIAL, Inline, Threads, executor_of
from unmergeable.executors.processes import Processes, computers_of
from unmergeable.executors.sealed import Receiver, seal
from unmergeable.keys.key import Key, keygen
from unmergeable.protection.protect import protect, unlock
from unmergeable.protection.recipe import LockRecipe

KEY = Key(bytes(range(32)))


@pytest.mark.parametrize(
    ("workers", "executor"), [(1, SERIAL), ("1", SERIAL), (2, Threads(2)), ("12", Threads(12))]
)
def test_numbers_are_threads(workers, executor):
    assert executor_of(workers) == executor


def test_by_default_every_processor_at_hand_works(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 3, 4})
    assert executor_of(None) == Threads(3)


@pytest.mark.parametrize("workers", [0, -1, "0", "-3", "dask", "ray:", "rays", "http://a", "1.5"])
def test_other_workers_are_refused(workers, tmp_path, capsys):
    with pytest.raises(InputError, match="workers="):
        executor_of(workers)
    arguments = ["protect", "m", str(tmp_path / "out"), "--key", "k", "--workers", str(workers)]
    assert main(arguments) == 4
    assert "ray://HOST:PORT" in capsys.readouterr().err


@pytest.mark.parametrize("executor", [SERIAL, Threads(1), Threads(3)])
def test_results_and_progress_come_back(executor, tmp_path):
    done, made = [], []
    executor.run(
        Spell(tmp_path),
        ["a", "bc"],
        secret=b"s",
        advance=done.append,
        finished=lambda *found: made.append(found),
    )
    assert made == [("a", f"a s {executor.count}"), ("bc", f"bc s {executor.count}")]
    assert done == [1, 2]


@pytest.mark.parametrize(
    ("workers", "executor"), [("1", SERIAL), ("2", Processes(2)), ("12", Processes(12))]
)
def test_of_jobs_that_compute_numbers_are_processes(workers, executor):
    assert computers_of(workers) == executor


def test_processes_give_results_and_progress_and_stop_at_the_first_error(tmp_path):
    done, made = [], {}
    arguments = {"secret": b"s", "advance": done.append, "finished": made.__setitem__}
    Processes(2).run(Spell(tmp_path), ["a", "bc"], **arguments)
    assert set(made) == {"a", "bc"} and all(m.startswith(f"{i} s ") for i, m in made.items())
    assert sorted(done) == [1, 2]
    assert made["a"] != "a s 0"  # threads are told
    for item, error in (("refused", PrecisionError), ("unreadable", OSError)):
        with pytest.raises(error):
            Processes(2).run(Spell(tmp_path), [item], **arguments)
    with pytest.raises(ClusterError, match=r"deadly.*run the same command again"):
        Processes(2).run(Spell(tmp_path), ["deadly"], **arguments)
    assert set(made) == {"a", "bc"}


def test_an_error_ends_what_other_processes_are_at(tmp_path):
    def finished(item, result):
        wait_until((tmp_path / "slow").exists)
        raise InputError("enough")

    start = time.monotonic()
    with pytest.raises(InputError, match="enough"):
        Processes(2).run(
            Spell(tmp_path), ["slow", "a"], secret=b"", advance=print, finished=finished
        )
    assert time.monotonic() - start < 40  # the slow one takes a minute
    assert gone(Path("/proc") / (tmp_path / "slow").read_text() / "stat")


def test_processes_end_with_the_one_that_started_them_even_killed(tmp_path):
    code = (
        "from pathlib import Path; from tests.executors.jobs import Spell; "
        "from unmergeable.executors.processes import Processes as P; nothing = lambda *_: None; "
        f"P(1).run(Spell(Path({str(tmp_path)!r})), ['slow'], secret=b'', advance=nothing, "
        "finished=nothing)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    told = tmp_path / "slow"
    wait_until(lambda: told.exists() and told.read_text())
    worker = Path("/proc") / told.read_text() / "stat"
    assert worker.exists()
    parent.kill()
    parent.wait()
    wait_until(lambda: gone(worker))


def gone(stat):
    """Whether a process has ended; one that nobody has waited for yet is listed as a zombie."""
    try:
        return ") Z " in stat.read_text()
    except OSError:
        return True


def wait_until(holds):
    end = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_without_threads_what_is_submitted_is_done_at_once():
    pool, done = Inline(), []
    assert pool.submit(done.append, 1).result() is None
    assert done == [1]
    failed = pool.submit(int, "x")
    with pytest.raises(ValueError, match="invalid literal"):
        failed.result()


# One plan


@pytest.mark.parametrize("executor", [SERIAL, Threads(2)])
def test_one_plan_gives_the_same_files_wherever_it_runs_and_after_pickling(executor, tmp_path):
    model = llama(tmp_path / "m", shards=3)
    report = protect(model, tmp_path / "locked", KEY)
    folder = open_folder(model)
    recipe = LockRecipe.of(folder, report.manifest.chain, back=False, allow_non_finite=False)
    with Staging(tmp_path / "out", "work") as staging:
        plan = pickle.loads(pickle.dumps(Plan.of(folder, recipe, staging)))
        made = carry_out(plan, staging, executor, secret=KEY.secret)
        staging.publish()
    locked = content(tmp_path / "locked")
    assert content(tmp_path / "out") == {n: locked[n] for n in locked if n.endswith("tensors")}
    assert made.read == report.manifest.weights["original"]


def test_what_is_sent_says_nothing_of_the_key(tmp_path):
    model = llama(tmp_path / "m", shards=2)
    report = protect(model, tmp_path / "locked", KEY, settings={"kind": "general"})
    recipe = LockRecipe.of(
        open_folder(model), report.manifest.chain, back=False, allow_non_finite=False
    )
    with Staging(tmp_path / "out", "work") as staging:
        sent = pickle.dumps(Shards(Plan.of(open_folder(model), recipe, staging)))
    assert KEY.secret not in sent
    assert KEY.secret.hex().encode() not in sent
    with pytest.raises(KeyFileError):
        recipe.opened(b"too short")


@pytest.mark.parametrize("workers", [1, 2])
def test_paths_may_be_relative(tmp_path, monkeypatch, workers):
    llama(tmp_path / "m", shards=2)
    monkeypatch.chdir(tmp_path)
    protect("m", "locked", KEY, workers=workers)
    assert unlock("locked", "back", KEY, workers=workers).exact
    assert content(tmp_path / "back") == content(tmp_path / "m")


def test_the_command_takes_a_number(tmp_path, capsys):
    llama(tmp_path / "m")
    keygen(tmp_path / "key")
    arguments = [str(tmp_path / name) for name in ("m", "out")]
    assert main(["protect", *arguments, "--key", str(tmp_path / "key"), "--workers", "2"]) == 0
    assert (tmp_path / "out" / "unmergeable.json").exists()


# Secrets under way


def test_a_box_opens_for_its_receiver_alone():
    one, other = Receiver(), Receiver()
    box = seal(b"secret", one.public)
    assert one.open(box) == b"secret"
    assert b"secret" not in box
    assert seal(b"secret", one.public) != box
    with pytest.raises(ClusterError):
        other.open(box)


@pytest.mark.parametrize("place", [0, 31, 32, -1])
def test_a_box_that_was_changed_does_not_open(place):
    receiver = Receiver()
    box = bytearray(seal(b"secret", receiver.public))
    box[place] ^= 1
    with pytest.raises(ClusterError, match="damaged"):
        receiver.open(bytes(box))
    with pytest.raises(ClusterError, match="damaged"):
        receiver.open(bytes(box[:20]))


def test_what_a_job_refuses_is_refused(tmp_path):
    for item, kind in (("refused", PrecisionError), ("unreadable", OSError)):
        with pytest.raises(kind):
            SERIAL.run(Spell(tmp_path), [item], secret=b"", advance=lambda n: None, finished=print)
