"""An output is absent or complete, whatever happens, and running again finishes."""

import errno
import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.tiny import content, interrupt_after, llama
from unmergeable.checkpoint.staging import Staging
from unmergeable.errors import InputError
from unmergeable.gauge.tensor_map import TensorMap
from unmergeable.keys.key import Key
from unmergeable.protection import protect as protection
from unmergeable.protection.protect import protect, unlock

KEY = Key(bytes(32))
TENSORS = 21
SHARDS = 3
HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}


@pytest.fixture
def model(tmp_path):
    return llama(tmp_path / "m", shards=SHARDS)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# Outputs


def _file(out):
    out.write_text("precious")


def _full(out):
    out.mkdir()
    (out / "precious").write_text("precious")


def _hidden(out):
    out.mkdir()
    (out / ".precious").write_text("precious")


@pytest.mark.parametrize("occupy", [_file, _full, _hidden])
def test_an_occupied_output_is_refused_and_kept(tmp_path, model, occupy):
    out = tmp_path / "out"
    occupy(out)
    with pytest.raises(InputError, match="exists and is not an empty folder"):
        protect(model, out, KEY)
    assert next(out.iterdir(), out).read_text() == "precious" if out.is_dir() else out.read_text()
    assert names(tmp_path) == {"m", "out"}


def test_the_model_itself_is_no_output(model):
    before = content(model)
    with pytest.raises(InputError, match="exists and is not an empty folder"):
        protect(model, model, KEY)
    assert content(model) == before


@pytest.mark.parametrize("out", ["out", "new/parents/out", "x/../out", "empty", "link", "out/"])
def test_a_free_output_is_made(tmp_path, model, undisturbed, out, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    report = protect(model, out, KEY)
    assert report.out.is_absolute()
    assert content(tmp_path / out.replace("x/../", "")) == undisturbed
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize("out", ["/", "/proc/nowhere/out"])
def test_an_output_that_cannot_be_made_is_refused(model, out):
    with pytest.raises(InputError, match=r"not an empty folder|cannot write beside"):
        protect(model, out, KEY)


def test_an_output_under_a_file_is_refused(tmp_path, model):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write beside"):
        protect(model, tmp_path / "file" / "out", KEY)


def test_an_output_that_is_a_mount_point_is_refused_at_once(tmp_path, model, monkeypatch, applied):
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(Path, "is_mount", lambda path: path.name == "out")
    with pytest.raises(InputError, match="mount point"):
        protect(model, tmp_path / "out", KEY)
    assert not applied


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_modes_follow_the_umask(tmp_path, model, umask):
    (model / "1_Pooling").mkdir()
    (model / "1_Pooling" / "config.json").write_text("{}")
    before = os.umask(umask)
    try:
        protect(model, tmp_path / "out", KEY)
    finally:
        os.umask(before)
    for path in [tmp_path / "out", *(tmp_path / "out").rglob("*")]:
        wanted = (0o777 if path.is_dir() else 0o666) & ~umask
        assert stat.S_IMODE(path.stat().st_mode) == wanted, path


# Interruptions


@pytest.mark.parametrize("after", [0, 1, 8, 15, 20])
def test_a_killed_run_leaves_no_output_and_running_again_finishes(
    tmp_path, model, undisturbed, applied, after
):
    out = tmp_path / "out"
    command = [sys.executable, HERE / "stuck_protect.py", model, out, str(after)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=ENVIRONMENT) as run:
        assert run.stdout is not None
        assert all(run.stdout.readline() for _ in range(after))
        finished = after // (TENSORS // SHARDS + 1)  # they get their names beside later work
        for _ in range(500):
            if len(list(tmp_path.glob(".out.partial/*.safetensors"))) >= finished:
                break
            time.sleep(0.01)
        run.kill()
    assert run.returncode == -signal.SIGKILL
    assert not out.exists()
    partial = tmp_path / ".out.partial"
    done = {path.name for path in partial.glob("*.safetensors")} if partial.exists() else set()
    assert len(done) >= finished
    applied.clear()
    protect(model, out, KEY)
    assert content(out) == undisturbed
    assert len(applied) == TENSORS - TENSORS // SHARDS * len(done)
    assert not partial.exists()


@pytest.mark.parametrize(("tensor", "shards"), [(0, 0), (6, 0), (7, 1), (13, 1), (14, 2), (20, 2)])
def test_an_interrupt_keeps_finished_shards_only(
    tmp_path, model, undisturbed, applied, tensor, shards
):
    out, partial = tmp_path / "out", tmp_path / ".out.partial"
    with pytest.raises(KeyboardInterrupt):
        stop = interrupt_after(tensor)
        protect(model, out, KEY, workers=1, progress=stop)
    assert not out.exists()
    kept = names(partial) if partial.exists() else set()
    assert len(kept) == (shards + 1 if shards else 0)  # the journal beside them
    applied.clear()
    protect(model, out, KEY)
    assert len(applied) == TENSORS - 7 * shards
    assert content(out) == undisturbed
    assert names(tmp_path) == {"m", "out", "undisturbed"}


@pytest.mark.parametrize("tensor", [0, 7, 14, 20])
def test_an_interrupt_of_two_threads_keeps_finished_shards_too(
    tmp_path, model, undisturbed, applied, tensor
):
    """Which ones is theirs to say; but what is kept is not made again, and is as it should be."""
    out, partial = tmp_path / "out", tmp_path / ".out.partial"
    with pytest.raises(KeyboardInterrupt):
        stop = interrupt_after(tensor)
        protect(model, out, KEY, workers=2, progress=stop)
    kept = names(partial) - {".journal"} if partial.exists() else set()
    assert len(kept) >= (tensor - 7) // 7  # one may be half made
    applied.clear()
    protect(model, out, KEY, workers=2)
    assert len(applied) == TENSORS - 7 * len(kept)
    assert content(out) == undisturbed


def _other_key(model):
    return {"key": Key(bytes(31) + b"\1")}


def _other_settings(model):
    return {"settings": {"spaces": "ffn"}}


def _allowing(model):
    return {"allow_non_finite": True}


def _touched(model):
    path = model / "model-00001-of-00003.safetensors"
    stamp = path.stat().st_mtime_ns + 1
    os.utime(path, ns=(stamp, stamp))
    return {}


def _other_weights(model):
    llama(model, shards=SHARDS, seed=1)
    return {}


def _other_config(model):
    """Says that the same weights have other heads."""
    path = model / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "num_attention_heads": 8, "num_key_value_heads": 4}))
    return {}


@pytest.mark.parametrize(
    "change", [_other_key, _other_settings, _allowing, _touched, _other_weights, _other_config]
)
def test_what_another_piece_of_work_left_is_not_taken_over(tmp_path, model, applied, change):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        protect(model, out, KEY, progress=interrupt_after(14))
    assert (tmp_path / ".out.partial" / "model-00002-of-00003.safetensors").exists()
    arguments = {"key": KEY, **change(model)}
    applied.clear()
    protect(model, out, **arguments)
    assert len(applied) == TENSORS
    protect(model, tmp_path / "undisturbed", **arguments)
    assert content(out) == content(tmp_path / "undisturbed")


@pytest.mark.parametrize(
    "damage",
    [
        lambda journal: journal[:-9],
        lambda journal: journal + b"5\n",
        lambda journal: journal + b'["model-00003-of-00003.safetensors", {"sha',
        lambda journal: journal + b"\xff\xfe\n[]\n",
        lambda journal: journal[: journal.index(b"\n") + 1],
        lambda journal: journal[:30],
    ],
)
def test_a_damaged_journal_costs_work_and_nothing_else(tmp_path, model, undisturbed, damage):
    out, journal = tmp_path / "out", tmp_path / ".out.partial" / ".journal"
    with pytest.raises(KeyboardInterrupt):
        protect(model, out, KEY, progress=interrupt_after(14))
    journal.write_bytes(damage(journal.read_bytes()))
    (tmp_path / ".out.partial" / "rubbish").mkdir()
    protect(model, out, KEY)
    assert content(out) == undisturbed


def test_a_refused_input_leaves_nothing_behind(tmp_path):
    """Not even the shards before the weight that is refused: the same call would fail again."""
    model = llama(tmp_path / "m", shards=SHARDS)
    path = model / "model-00003-of-00003.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-4:] = np.float32(np.nan).tobytes()
    path.write_bytes(raw)
    with pytest.raises(InputError, match=r"model\.norm\.weight in model-00003.*NaN or infinite"):
        protect(model, tmp_path / "out", KEY)
    assert names(tmp_path) == {"m"}


def test_two_runs_do_not_write_the_same_output(tmp_path, model, undisturbed):
    out = tmp_path / "out"
    refused = []

    def again(done):
        if not refused:
            with pytest.raises(InputError, match="another run is writing") as error:
                protect(model, out, KEY)
            refused.append(error)

    protect(model, out, KEY, progress=again)
    assert refused
    assert content(out) == undisturbed


def test_an_output_that_fills_meanwhile_is_kept_and_the_work_too(tmp_path, model, applied):
    out = tmp_path / "out"

    def occupy(done):
        out.mkdir(exist_ok=True)
        (out / "precious").write_text("precious")

    with pytest.raises(InputError, match="not an empty folder"):
        protect(model, out, KEY, progress=occupy)
    assert content(out) == {"precious": b"precious"}
    (out / "precious").unlink()
    applied.clear()
    protect(model, out, KEY)
    assert not applied


# Disks


def _fails(number, fail_at):
    """A system call that fails from its n-th use on."""
    count = 0

    def wrap(plain):
        def call(*args):
            nonlocal count
            count += 1
            if count > fail_at:
                raise OSError(number, os.strerror(number))
            return plain(*args)

        return call

    return wrap


@pytest.mark.parametrize(
    ("call", "fail_at"),
    [("pwrite", n) for n in (0, 5, 12, 23)]
    + [("fsync", n) for n in (0, 1, 4, 8, 9)]
    + [("write", n) for n in (0, 1, 3)],
)
def test_a_full_disk_leaves_no_output_and_running_again_finishes(
    tmp_path, model, undisturbed, call, fail_at
):
    out = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, call, _fails(errno.ENOSPC, fail_at)(getattr(os, call)))
        with pytest.raises(InputError, match=r"out.* is full|partial: No space left") as refused:
            protect(model, out, KEY, workers=1)
    assert str(tmp_path) in str(refused.value)
    assert not out.exists()
    protect(model, out, KEY)
    assert content(out) == undisturbed
    assert names(tmp_path) == {"m", "out", "undisturbed"}


def test_a_full_disk_says_that_running_again_goes_on(tmp_path, model, applied):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwrite", _fails(errno.ENOSPC, 10)(os.pwrite))
        with pytest.raises(InputError, match=r"disk of .*out is full\. What is finished is kept"):
            protect(model, tmp_path / "out", KEY, workers=1)
    assert "model-00001-of-00003.safetensors" in names(tmp_path / ".out.partial")
    applied.clear()
    protect(model, tmp_path / "out", KEY)
    assert len(applied) == TENSORS - 7


def test_a_disk_without_room_is_refused_before_work_starts(tmp_path, model, applied, monkeypatch):
    import shutil

    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(InputError, match=r"needs .* GB, its disk has 0\.00 GB free"):
        protect(model, tmp_path / "out", KEY)
    assert not applied
    assert names(tmp_path) == {"m"}


def test_a_disk_that_fills_for_real(tmp_path, model, undisturbed):
    """A tmpfs with room for two of the three shards, which the early check is made to miss."""
    disk = tmp_path / "disk"
    disk.mkdir()
    size = sum(path.stat().st_size for path in model.iterdir()) * 3 // 4
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", disk], capture_output=True
    ).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("unmergeable.checkpoint.rewrite._check_space", lambda *args: None)
            with pytest.raises(InputError, match="is full"):
                protect(model, disk / "out", KEY)
        assert not (disk / "out").exists()
        subprocess.run(["mount", "-o", "remount,size=10m", disk], check=True)
        protect(model, disk / "out", KEY)
        assert content(disk / "out") == undisturbed
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_file_that_cannot_be_read_is_named(tmp_path, model, monkeypatch):
    monkeypatch.setattr(os, "preadv", _fails(errno.EIO, 8)(os.preadv))
    with pytest.raises(InputError, match=r"model-0000\d-of-00003\.safetensors: Input/output error"):
        protect(model, tmp_path / "out", KEY)


def test_unlocking_resumes_too(tmp_path, model, applied):
    locked, out = tmp_path / "locked", tmp_path / "out"
    protect(model, locked, KEY)
    with pytest.raises(KeyboardInterrupt):
        unlock(locked, out, KEY, progress=interrupt_after(14))
    assert not out.exists()
    applied.clear()
    assert unlock(locked, out, KEY).exact
    assert len(applied) == 7
    assert content(out) == content(model)


def test_a_second_lock_of_the_staging_folder_is_refused_at_once(tmp_path):
    with Staging(tmp_path / "out", "work") as staging:
        with pytest.raises(InputError, match="another run"), Staging(tmp_path / "out", "work"):
            pass
        descriptor = os.open(staging.path / ".journal", os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)


def test_work_without_a_name_is_never_kept(tmp_path):
    with pytest.raises(KeyboardInterrupt), Staging(tmp_path / "out", None) as staging:
        staging.write_file("a.tmp", b"a")
        staging.finish("a", {})
        raise KeyboardInterrupt
    assert not names(tmp_path)


def test_a_file_changed_in_size_is_a_fault_of_ours(tmp_path, model, monkeypatch):
    monkeypatch.setattr(TensorMap, "pieces", lambda self, data, *args, **kwargs: [data[:-1]])
    with pytest.raises(AssertionError):
        protect(model, tmp_path / "out", KEY)
    assert names(tmp_path) == {"m"}


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_the_number_of_threads_changes_nothing(tmp_path, model, undisturbed, workers, monkeypatch):
    monkeypatch.setattr("unmergeable.checkpoint.shards.BUDGET", 4096)  # less than a tensor
    done = []
    protect(model, tmp_path / "out", KEY, workers=workers, progress=done.append)
    assert content(tmp_path / "out") == undisturbed
    size = sum(4 * np.prod(s) for s in protection.open_folder(model).shapes.values())
    assert done[-1].done == done[-1].total == size and len(done) == TENSORS
    assert [one.done for one in done] == sorted(one.done for one in done)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_memory_does_not_grow_with_the_model(tmp_path):
    """64 MB of weights in tensors of 1 MB, with 8 MB allowed in flight."""
    small = llama(tmp_path / "small", "BF16")
    large = llama(
        tmp_path / "large",
        "BF16",
        hidden_size=512,
        intermediate_size=1024,
        num_hidden_layers=16,
        num_attention_heads=8,
        num_key_value_heads=4,
    )
    size = (large / "model.safetensors").stat().st_size
    assert size > 64 << 20
    done = subprocess.run(
        [sys.executable, HERE / "thrifty_protect.py", small, large, tmp_path / "out"],
        env=ENVIRONMENT,
        capture_output=True,
        check=True,
    )
    assert int(done.stdout) < 32 << 20
