"""What must hold whatever goes wrong: the output is absent or complete and correct, the input is as
it was, no other file is left, and running again does not redo finished shards.

UNMERGEABLE_KILLS=50 kills more often than the tests do by default.
"""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import content, llama
from unmergeable.errors import InputError
from unmergeable.keys.key import Key, keygen
from unmergeable.protection.protect import protect, unlock

KEY = Key(bytes(32))
KILLS = int(os.environ.get("UNMERGEABLE_KILLS", "12"))
SHARDS, TENSORS = 6, 30
HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}


@pytest.fixture
def model(tmp_path):
    return llama(tmp_path / "m", shards=SHARDS, num_hidden_layers=3)


def finished(out):
    """The shards that a run which came to nothing has finished and noted."""
    journal = out.parent / f".{out.name}.partial" / ".journal"
    lines = journal.read_text().splitlines()[1:] if journal.exists() else []
    return len([line for line in lines if line.endswith("]")])


@pytest.fixture(scope="module")
def killed():
    """Runs a piece of work in a process that kills itself at a moment; gives its exit code."""
    command = [sys.executable, HERE / "killable_protect.py"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=ENVIRONMENT, **pipes) as mother:

        def run(what, model, out, workers, moment):
            mother.stdin.write("\t".join(map(str, (what, model, out, workers, moment))) + "\n")
            mother.stdin.flush()
            return tuple(map(int, mother.stdout.readline().split()))

        yield run
        mother.stdin.close()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_killed_at_any_moment_is_finished_by_the_next(
    tmp_path, model, undisturbed, applied, killed, workers
):
    before = content(model)
    code, calls = killed("protect", model, tmp_path / "whole", workers, 0)
    assert code == 0 and content(tmp_path / "whole") == undisturbed
    died, kept = 0, []
    draw = random.Random(workers)
    for part in range(KILLS // 2):  # one in each part of the run
        moment = 1 + int(calls * (part + draw.random()) * 2 / KILLS)
        out = tmp_path / f"out {moment}"
        code, _ = killed("protect", model, out, workers, moment)
        died += code == -signal.SIGKILL
        if out.exists():  # the kill came after the rename
            assert content(out) == undisturbed
            continue
        kept.append(finished(out))
        applied.clear()
        protect(model, out, KEY)
        assert content(out) == undisturbed
        assert len(applied) <= TENSORS - TENSORS // SHARDS * kept[-1]
        assert content(model) == before
    assert died >= KILLS // 4  # threads take varying numbers of calls
    assert max(kept) > 0  # some came late enough for something to be kept
    assert not list(tmp_path.glob(".*"))


def test_an_unlocking_killed_again_and_again_is_finished_in_the_end(
    tmp_path, model, applied, killed
):
    """On one output: every run goes on where the one before was killed."""
    protect(model, tmp_path / "locked", KEY)
    wanted, out = content(model), tmp_path / "out"
    _, calls = killed("unlock", tmp_path / "locked", tmp_path / "whole", 1, 0)
    kept = [0]
    for _ in range(4):
        code, _ = killed("unlock", tmp_path / "locked", out, 1, calls * 2 // 3)
        assert code in (0, -signal.SIGKILL)
        if not out.exists():
            kept.append(finished(out))
    assert kept == sorted(kept) and kept[-1] > 1
    applied.clear()
    if not out.exists():
        assert unlock(tmp_path / "locked", out, KEY).exact
    assert len(applied) <= TENSORS - TENSORS // SHARDS * kept[-1]
    assert content(out) == wanted


def test_two_runs_at_once_make_one_output(tmp_path, model, undisturbed):
    keygen(tmp_path / "key")
    command = [sys.executable, "-m", "unmergeable", "protect", model, tmp_path / "out"]
    command += ["--key", tmp_path / "key"]
    runs = [
        subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [run.communicate()[1] for run in runs]
    codes = [run.returncode for run in runs]
    assert 0 in codes
    assert set(codes) <= {0, 2}
    for code, text in zip(codes, said, strict=True):
        assert code == 0 or "another run is writing" in text or "not an empty folder" in text
    assert unlock(tmp_path / "out", tmp_path / "back", tmp_path / "key").exact
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_is_said_and_the_next_run_goes_on(tmp_path, model, undisturbed, number):
    out, script = tmp_path / "out", HERE / "stuck_protect.py"
    with subprocess.Popen(
        [sys.executable, script, model, out, "12"],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as run:
        assert all(run.stdout.readline() for _ in range(11))
        run.send_signal(number)
    assert run.returncode != 0
    assert not out.exists()
    assert finished(out) == 2
    if number == signal.SIGINT:  # half a shard is cleared away at once
        assert len(list((tmp_path / ".out.partial").iterdir())) == 3
    protect(model, out, KEY)
    assert content(out) == undisturbed
    assert not list(tmp_path.glob(".*"))


# An input that changes


def rewritten(path):
    """The same size, other bytes."""
    raw = path.read_bytes()
    path.write_bytes(raw[:-8] + raw[-4:] + raw[-8:-4])


def replaced(path):
    """Another file of the same name, as an editor or a download writes it."""
    raw = path.read_bytes()
    other = path.with_suffix(".new")
    other.write_bytes(raw[:-8] + raw[-4:] + raw[-8:-4])
    other.replace(path)


def shorter(path):
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


@pytest.mark.parametrize("change", [rewritten, replaced, shorter, Path.unlink])
@pytest.mark.parametrize("workers", [1, 2])
def test_an_input_that_changes_between_plan_and_run_is_noticed(tmp_path, model, change, workers):
    """A shard that is not begun yet, when the first tensor is done."""
    changed = []

    def once(done):
        if not changed:
            change(model / f"model-{SHARDS:05}-of-{SHARDS:05}.safetensors")
            changed.append(content(model))

    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"model-00006.*(changed while|too early|No such file)"):
        protect(model, out, KEY, workers=workers, progress=once)
    assert not out.exists()
    assert content(model) == changed[0]


def test_an_input_that_changes_while_it_is_read_is_noticed(tmp_path, model):
    """The shard at work, behind the back of the file that is open."""

    def change(done):
        rewritten(model / "model-00001-of-00006.safetensors")

    with pytest.raises(InputError, match=r"model-00001.*was changed while"):
        protect(model, tmp_path / "out", KEY, workers=1, progress=change)
    assert {path.name for path in tmp_path.iterdir()} == {"m"}


@pytest.mark.parametrize("change", [rewritten, replaced])
def test_an_input_that_changed_between_two_runs_is_done_anew(tmp_path, model, applied, change):
    def stop(done):
        if len(applied) > 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        protect(model, tmp_path / "out", KEY, workers=1, progress=stop)
    assert finished(tmp_path / "out")
    change(model / "model-00006-of-00006.safetensors")
    applied.clear()
    protect(model, tmp_path / "out", KEY)
    assert len(applied) == TENSORS
    protect(model, tmp_path / "wanted", KEY)
    assert content(tmp_path / "out") == content(tmp_path / "wanted")


# Disks


@pytest.mark.parametrize("reads", [0, 1, 7, 13, 29])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_read_that_fails_costs_the_shard_at_work_alone(
    tmp_path, model, undisturbed, applied, reads, workers, monkeypatch
):
    before, plain, count = content(model), os.preadv, 0

    def fail(*args):
        nonlocal count
        count += 1
        if count > reads:
            raise OSError(5, "Input/output error")
        return plain(*args)

    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", fail)
        with pytest.raises(InputError, match=r"model-0000\d-of-00006.*Input/output error"):
            protect(model, out, KEY, workers=workers)
    assert not out.exists()
    assert content(model) == before
    kept = finished(out)
    assert kept >= max(0, reads // (TENSORS // SHARDS) - workers)
    assert not list(tmp_path.glob(".*/*.tmp"))
    applied.clear()
    protect(model, out, KEY)
    assert len(applied) == TENSORS - TENSORS // SHARDS * kept
    assert content(out) == undisturbed
