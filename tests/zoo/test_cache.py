import os
from pathlib import Path

import pytest

from unmergeable.zoo import cache as store


def write(text):
    return lambda folder: (folder / "file").write_text(text) and None


def test_builds_once_and_reuses(tmp_path):
    calls = []

    def make(folder: Path) -> None:
        calls.append(folder)
        (folder / "file").write_text("whole")

    first = store.build("kind/name", {"a": 1, "b": 2}, make, tmp_path)
    again = store.build("kind/name", {"b": 2, "a": 1}, make, tmp_path)
    assert first == again and len(calls) == 1
    assert (first / "file").read_text() == "whole"
    assert store.build("kind/name", {"a": 1, "b": 3}, make, tmp_path) != first


def test_nothing_is_visible_before_it_is_complete(tmp_path):
    seen = []

    def make(folder: Path) -> None:
        (folder / "file").write_text("half")
        seen.extend(p.name for p in (tmp_path / "kind").iterdir() if not p.name.startswith("."))

    store.build("kind/name", {}, make, tmp_path)
    assert seen == []


def test_a_failed_build_leaves_nothing(tmp_path):
    def make(folder: Path) -> None:
        (folder / "file").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.build("kind/name", {}, make, tmp_path)
    assert list((tmp_path / "kind").iterdir()) == []
    assert (store.build("kind/name", {}, write("whole"), tmp_path) / "file").read_text() == "whole"


def test_what_a_killed_process_left_is_swept_and_a_living_ones_is_not(tmp_path):
    final = store.build("name", {}, write("x"), tmp_path)
    (final / "file").unlink()
    final.rmdir()
    dead = tmp_path / f".{final.name}.{2**22 + 1}.partial"  # above the largest process id of Linux
    alive = tmp_path / f".{final.name}.{os.getppid()}.partial"
    dead.mkdir()
    alive.mkdir()
    store.build("name", {}, write("x"), tmp_path)
    assert alive.is_dir() and not dead.exists()


def test_the_variable_names_the_root_and_an_argument_wins(tmp_path, monkeypatch):
    monkeypatch.setenv(store.VARIABLE, str(tmp_path / "a"))
    assert store.root() == tmp_path / "a"
    assert store.root(tmp_path / "b") == tmp_path / "b"
    monkeypatch.delenv(store.VARIABLE)
    assert store.root() == Path.home() / ".cache" / "unmergeable"
