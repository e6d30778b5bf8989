import json
import math
import os
from pathlib import Path

import pytest

from unmergeable.evaluation import store


def write(text):
    return lambda folder: (folder / "file").write_text(text) and None


def test_builds_once_and_reuses(tmp_path):
    calls = []

    def make(folder: Path) -> None:
        calls.append(folder)
        (folder / "file").write_text("whole")

    first = store.get_or_make("kind/name", {"a": 1, "b": 2}, make, tmp_path)
    again = store.get_or_make("kind/name", {"b": 2, "a": 1}, make, tmp_path)
    assert first == again and len(calls) == 1
    assert (first / "file").read_text() == "whole"
    assert store.get_or_make("kind/name", {"a": 1, "b": 3}, make, tmp_path) != first


def test_nothing_is_visible_before_it_is_complete(tmp_path):
    seen = []

    def make(folder: Path) -> None:
        (folder / "file").write_text("half")
        seen.extend(p.name for p in (tmp_path / "kind").iterdir() if not p.name.startswith("."))

    store.get_or_make("kind/name", {}, make, tmp_path)
    assert seen == []


def test_a_failed_build_leaves_nothing(tmp_path):
    def make(folder: Path) -> None:
        (folder / "file").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.get_or_make("kind/name", {}, make, tmp_path)
    assert list((tmp_path / "kind").iterdir()) == []
    assert (
        store.get_or_make("kind/name", {}, write("whole"), tmp_path) / "file"
    ).read_text() == "whole"


def test_what_a_killed_process_left_is_swept_and_a_living_ones_is_not(tmp_path):
    final = store.get_or_make("name", {}, write("x"), tmp_path)
    (final / "file").unlink()
    final.rmdir()
    dead = tmp_path / f".{final.name}.{2**22 + 1}.partial"  # above the largest process id of Linux
    alive = tmp_path / f".{final.name}.{os.getppid()}.partial"
    dead.mkdir()
    alive.mkdir()
    store.get_or_make("name", {}, write("x"), tmp_path)
    assert alive.is_dir() and not dead.exists()


def test_the_variable_names_the_root_and_an_argument_wins(tmp_path, monkeypatch):
    monkeypatch.setenv(store.VARIABLE, str(tmp_path / "a"))
    assert store.root() == tmp_path / "a"
    assert store.root(tmp_path / "b") == tmp_path / "b"
    monkeypatch.delenv(store.VARIABLE)
    assert store.root() == Path.home() / ".cache" / "unmergeable"


def _cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    status = path.stat()
    path.write_bytes(raw)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _another(path):
    path.with_name("another").write_text("x")


@pytest.mark.parametrize("damage", [_cut, _flip, _another, Path.unlink])
def test_a_damaged_folder_is_built_again(tmp_path, damage):
    calls = []

    def make(folder):
        calls.append(folder)
        (folder / "deep").mkdir()
        (folder / "deep" / "file").write_text("whole")

    first = store.get_or_make("kind/name", {}, make, tmp_path)
    damage(first / "deep" / "file")
    assert store.get_or_make("kind/name", {}, make, tmp_path) == first
    assert [path.name for path in (first / "deep").iterdir()] == ["file"]
    assert (first / "deep" / "file").read_text() == "whole"
    assert store.get_or_make("kind/name", {}, make, tmp_path) == first and len(calls) == 2
    assert {path.name for path in (tmp_path / "kind").iterdir()} == {
        first.name,
        f"{first.name}.json",
    }


GARBAGE = [b"", b"{", b"null", b"[]", b"5", b"{}", b"\xff\xfe", b"[" * 100_000, b'{"a": 1}']


@pytest.mark.parametrize("garbage", GARBAGE)
def test_a_folder_whose_record_is_damaged_is_built_again(tmp_path, garbage):
    folder = store.get_or_make("name", {}, write("old"), tmp_path)
    folder.with_name(folder.name + ".json").write_bytes(garbage)
    assert (store.get_or_make("name", {}, write("new"), tmp_path) / "file").read_text() == "new"


def test_a_build_that_fails_keeps_what_was_damaged_for_nobody(tmp_path):
    folder = store.get_or_make("name", {}, write("old"), tmp_path)
    _flip(folder / "file")

    def fail(folder):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.get_or_make("name", {}, fail, tmp_path)
    assert (store.get_or_make("name", {}, write("new"), tmp_path) / "file").read_text() == "new"


def test_of_two_builds_at_once_the_first_one_counts(tmp_path):
    def make(folder):
        if not folder.with_name("inner").exists():
            folder.with_name("inner").mkdir()
            pid, os.getpid = os.getpid, lambda: 1
            try:
                store.get_or_make("name", {}, write("first"), tmp_path)
            finally:
                os.getpid = pid
        (folder / "file").write_text("second")

    found = store.get_or_make("name", {}, make, tmp_path)
    assert (found / "file").read_text() == "first"
    assert store.get_or_make("name", {}, write("third"), tmp_path) == found
    assert (found / "file").read_text() == "first"


@pytest.mark.parametrize("value", [{"a": (1, 2.5)}, {2: "ä", 10: None}, {"a": 0.1 + 0.2, "b": []}])
def test_a_measurement_comes_back_as_json_has_it(tmp_path, value):
    store.keep(tmp_path / "x" / "y.json", value)
    assert store.kept(tmp_path / "x" / "y.json") == json.loads(json.dumps(value))


def test_a_measurement_may_be_no_number(tmp_path):
    store.keep(tmp_path / "x.json", {"a": math.nan})
    assert math.isnan(store.kept(tmp_path / "x.json")["a"])


@pytest.mark.parametrize("garbage", GARBAGE)
def test_what_is_not_a_measurement_is_none(tmp_path, garbage):
    assert store.kept(tmp_path / "x.json") is None
    (tmp_path / "x.json").write_bytes(garbage)
    assert store.kept(tmp_path / "x.json") is None
    (tmp_path / "folder.json").mkdir()
    assert store.kept(tmp_path / "folder.json") is None


def test_no_byte_of_a_measurement_can_change(tmp_path):
    path = tmp_path / "x.json"
    store.keep(path, {"value": 0.25, "label": {"weight": 1}})
    raw = path.read_bytes()
    for place in range(len(raw)):
        path.write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
        assert store.kept(path) in (None, {"value": 0.25, "label": {"weight": 1}})
        path.write_bytes(raw[:place])
        assert store.kept(path) in (None, {"value": 0.25, "label": {"weight": 1}})
