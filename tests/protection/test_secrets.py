"""The owner's secret is nowhere but in the key file, whatever a run leaves behind."""

import base64
import io
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tiny import llama, lora
from unmergeable.keys.key import Key, load_key
from unmergeable.protection.protect import protect, unlock
from unmergeable.protection.relock import relock

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
PROGRAM = "import sys; from unmergeable.cli import main; sys.exit(main(sys.argv[1:]))"


def spellings(secret):
    """The ways in which a secret of some bytes may be written; base64 at each of three offsets."""
    found = {secret, secret[::-1], secret.hex().encode(), secret.hex().upper().encode()}
    for offset in range(3):
        shifted = base64.b64encode(bytes(offset) + secret)
        whole = shifted[-(-offset * 8 // 6) : -4].rstrip(b"=")
        found |= {whole, whole.replace(b"+", b"-").replace(b"/", b"_")}
    found |= {
        str(list(secret)).encode(),
        repr(secret).encode(),
        str(int.from_bytes(secret)).encode(),
    }
    # Half of it is too much as well.
    return found | {
        secret[:16],
        secret[16:],
        secret[:16].hex().encode(),
        secret[16:].hex().encode(),
    }


def left_with(folder, secret, but):
    """The files below a folder that hold the secret, and names that do."""
    ways = spellings(secret)
    found = []
    for path in folder.rglob("*"):
        if path == but or path.is_dir():
            continue
        content = str(path).encode() + b"\0" + path.read_bytes()
        found += [(path, way) for way in ways if way in content]
    return found


def test_spellings_are_found(tmp_path):
    secret = bytes(range(200, 232))
    for way in (
        b"x" + secret + b"y",
        json.dumps({"a": base64.b64encode(b"a" + secret).decode()}).encode(),
        f"{Key(secret).secret!r}".encode(),
        secret.hex().encode(),
    ):
        (tmp_path / "file").write_bytes(way)
        assert left_with(tmp_path, secret, None)
    (tmp_path / "file").write_bytes(repr(Key(secret)).encode())
    assert not left_with(tmp_path, secret, None)


def test_what_commands_leave_behind_holds_no_secret(tmp_path):
    for name in ("temp", "home", "cache"):
        (tmp_path / name).mkdir()
    where = {"TMPDIR": "temp", "HOME": "home", "UNMERGEABLE_CACHE": "cache"}
    environment = ENVIRONMENT | {name: str(tmp_path / place) for name, place in where.items()}

    def run(*command, code=0):
        done = subprocess.run(
            [sys.executable, "-X", "dev", "-c", PROGRAM, *map(str, command)],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
        )
        number = len(list(tmp_path.glob("*.said")))
        (tmp_path / f"{number}.said").write_bytes(done.stdout + done.stderr)
        assert done.returncode == code, done.stderr

    model = llama(tmp_path / "m", shards=2)
    broken = llama(tmp_path / "broken", shards=2)
    last = broken / "model-00002-of-00002.safetensors"
    last.write_bytes(last.read_bytes()[:-4] + b"\x00\x00\xc0\x7f")
    lora(tmp_path / "lora")
    key = tmp_path / "owner.key"
    run("keygen", key, "--json")
    run("keygen", key, code=2)
    run("inspect", model)
    run("protect", model, "locked", "--key", key, "--json")
    run("protect", model, "locked", "--key", key, code=2)
    run("protect", broken, "never", "--key", key, code=2)
    run("unlock", "locked", "open", "--key", key)
    run("unlock", model, "nothing", "--key", key, "--json", code=2)
    run("protect", "lora", "locked-lora", "--key", key, "--model", "locked")
    run("unlock", "locked-lora", "open-lora", "--key", key, "--model", "locked")
    other = tmp_path / "next.key"
    run("keygen", other)
    run("relock", "locked", "relocked", "--key", key, "--new-key", other)
    run("relock", "locked", "nothing", "--key", other, "--new-key", key, code=2)
    llama(tmp_path / "base", seed=1)
    run(
        *("protect", model, "for-a", "--key", key, "--defence", "mark", "--base", "base"),
        *("--licensee", "someone", "--register", "register", "--card"),
    )
    assert not list(tmp_path.glob("for-a/*someone*"))
    for path in (*tmp_path.glob("for-a/*"), tmp_path / "register"):
        assert b"someone" not in path.read_bytes()
    for one in (key, other):
        secret = load_key(one).secret
        assert not left_with(tmp_path, secret, one)
        assert left_with(tmp_path, secret, None)[0][0] == one


def relocked(model, out, key, **more):
    """Relock, to another key."""
    return relock(model, out, key, Key(bytes(range(1, 33))), **more)


@pytest.mark.parametrize("work", [protect, unlock, relocked])
def test_what_an_interrupted_run_leaves_behind_holds_no_secret(tmp_path, work, monkeypatch):
    """The journal, shards, and what is logged or raised."""
    secret = bytes(range(100, 132))
    key, log = Key(secret), io.StringIO()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    handler = logging.StreamHandler(log)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    given = llama(tmp_path / "m", shards=3)
    if work is not protect:
        protect(given, tmp_path / "locked", key)
        given = tmp_path / "locked"

    def stop(done):
        if list(tmp_path.glob(".out.partial/*.safetensors")):
            log.write(f"stopped with {key}")
            raise KeyboardInterrupt

    try:
        with pytest.raises(KeyboardInterrupt):
            work(given, tmp_path / "out", key, workers=1, progress=stop)
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    (tmp_path / "log").write_text(log.getvalue())
    assert (tmp_path / ".out.partial" / ".journal").stat().st_size > 500
    assert not left_with(tmp_path, secret, None)
