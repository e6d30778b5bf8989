import gzip
import hashlib
import io
import os
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from unmergeable.bench.zoo import packages
from unmergeable.errors import DownloadError

SHA = hashlib.sha256(b"data").hexdigest()


@pytest.fixture
def index(monkeypatch):
    """Stands in for pip: every download gives a wheel with two files."""
    commands = []

    def run(command, **_):
        commands.append(command)
        target = Path(command[command.index("--dest") + 1]) / "thing-1.0-py3-none-any.whl"
        with zipfile.ZipFile(target, "w") as wheel:
            wheel.writestr("thing/a.bin", b"data")
            wheel.writestr("thing/b.bin", b"other")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(packages.subprocess, "run", run)
    return commands


def test_takes_only_what_was_asked_for(index, tmp_path):
    folder = packages.pypi("thing", "1.0", {"thing/a.bin": SHA}, tmp_path)
    assert (folder / "thing/a.bin").read_bytes() == b"data"
    assert [p.name for p in folder.rglob("*") if p.is_file()] == ["a.bin"]
    packages.pypi("thing", "1.0", {"thing/a.bin": SHA}, tmp_path)
    assert len(index) == 1
    assert "thing==1.0" in index[0] and "--no-deps" in index[0]


@pytest.mark.parametrize(
    ("files", "message"),
    [({"thing/b.bin": SHA}, "hashes to"), ({"thing/c.bin": SHA}, "has no file thing/c.bin")],
)
def test_refuses_another_file_and_keeps_nothing(index, tmp_path, files, message):
    with pytest.raises(DownloadError, match=message):
        packages.pypi("thing", "1.0", files, tmp_path)
    assert list((tmp_path / "packages").iterdir()) == []


def test_says_why_a_download_failed(monkeypatch, tmp_path):
    monkeypatch.setattr(
        packages.subprocess,
        "run",
        lambda command, **_: subprocess.CompletedProcess(command, 1, "", "ERROR: no network\n"),
    )
    with pytest.raises(DownloadError, match=r"thing 1\.0 \(ERROR: no network\)"):
        packages.pypi("thing", "1.0", {"a": SHA}, tmp_path)


def test_a_folder_and_an_unchecked_file_of_a_wheel(index, tmp_path):
    folder = packages.pypi("thing", "1.0", {"thing/": None}, tmp_path)
    assert sorted(p.name for p in (folder / "thing").iterdir()) == ["a.bin", "b.bin"]
    folder = packages.pypi("thing", "1.0", {"thing/b.bin": None}, tmp_path)
    assert [p.name for p in folder.rglob("*") if p.is_file()] == ["b.bin"]


@pytest.fixture
def registry(monkeypatch):
    """Stands in for npm and pip: npm packs an archive, pip gives a wheel with npm in it."""
    commands = []

    def run(command, **_):
        commands.append([str(part) for part in command])
        if "pack" in command:
            target = Path(command[command.index("--pack-destination") + 1]) / "a-b-1.0.tgz"
            target.write_bytes(archive())
        else:
            target = Path(command[command.index("--dest") + 1]) / "node-1-py3-none-any.whl"
            with zipfile.ZipFile(target, "w") as wheel:
                wheel.writestr(packages.NODE_PROGRAM, b"program")
                wheel.writestr(packages.NPM_FOLDER + "bin/npm-cli.js", b"script")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(packages.subprocess, "run", run)
    return commands


def archive():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name in ("package/data/x.txt", "package/data/x.json", "package/lib/y.txt"):
            member = tarfile.TarInfo(name)
            member.size = 4
            tar.addfile(member, io.BytesIO(b"data"))
    data = bytearray(out.getvalue())
    data[4:8] = bytes(4)  # gzip's time stamp
    return bytes(data)


def test_npm_takes_only_what_was_asked_for(registry, tmp_path, monkeypatch):
    monkeypatch.setattr(packages.shutil, "which", lambda name: "/bin/npm")
    known = hashlib.sha256(archive()).hexdigest()
    folder = packages.npm("@a/b", "1.0", known, "package/data/", tmp_path, ext=".txt")
    assert [p.name for p in folder.rglob("*") if p.is_file()] == ["x.txt"]
    assert registry[0][:2] == ["/bin/npm", "pack"] and registry[0][-1] == "@a/b@1.0"
    with pytest.raises(DownloadError, match="hashes to"):
        packages.npm("@a/b", "1.0", SHA, "package/data/", tmp_path)


def test_without_npm_the_one_of_a_wheel_is_run(registry, tmp_path, monkeypatch):
    monkeypatch.setattr(packages.shutil, "which", lambda name: None)
    known = hashlib.sha256(archive()).hexdigest()
    packages.npm("@a/b", "1.0", known, "package/data/", tmp_path)
    assert "==".join(packages.NODE) in registry[0]
    program, script, verb = registry[1][:3]
    assert program.endswith("bin/node") and os.access(program, os.X_OK)
    assert Path(script).name == "npm-cli.js" and Path(script).is_file() and verb == "pack"


@pytest.fixture
def apt(monkeypatch):
    """Stands in for apt and dpkg: the package is its own tar file."""
    commands = []

    def run(command, stdout=None, cwd=None, **_):
        commands.append(command)
        if command[0] == "apt-get":
            (Path(cwd) / "fonts_1%3a2_all.deb").write_bytes(archive())
        else:
            stdout.write(gzip.decompress(Path(command[-1]).read_bytes()))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(packages.subprocess, "run", run)
    return commands


def test_debian_takes_only_what_was_asked_for(apt, tmp_path):
    known = hashlib.sha256(archive()).hexdigest()
    folder = packages.debian("fonts", "1:2", known, "package/data/", tmp_path, ext=".txt")
    assert [p.name for p in folder.rglob("*") if p.is_file()] == ["x.txt"]
    assert apt[0][-1] == "fonts=1:2"
    with pytest.raises(DownloadError, match="hashes to"):
        packages.debian("fonts", "1:2", SHA, "package/data/", tmp_path)


def test_a_machine_without_apt_is_told(monkeypatch, tmp_path):
    def absent(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(packages.subprocess, "run", absent)
    with pytest.raises(DownloadError, match="this machine has no apt-get"):
        packages.debian("fonts", "1", SHA, "x", tmp_path)
    assert list((tmp_path / "packages").iterdir()) == []
