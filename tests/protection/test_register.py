"""The register of licensees: it grows by itself, opens with the key alone, and guides a trace."""

import json
import multiprocessing
import os
import stat

import pytest

import unmergeable
from tests.tiny import LLAMA, llama_weights, save
from unmergeable.errors import InputError, KeyFileError
from unmergeable.keys.key import Key
from unmergeable.protection import register as registers
from unmergeable.protection.protect import protect
from unmergeable.protection.register import LicensedCopy, enter, licensees

KEY, OTHER = Key(bytes(range(32))), Key(bytes(32))
A, B = (LicensedCopy(name, "ab" * 32) for name in ("alice", "bob"))


@pytest.fixture
def models(tmp_path):
    """A base `b`, and three experts of it: `m`, `n` and `o`."""
    base = llama_weights()
    save(tmp_path / "b", base, LLAMA)
    for seed, name in ((1, "m"), (2, "n"), (3, "o")):
        tuned = {n: w + 0.05 * llama_weights(seed)[n] for n, w in base.items()}
        save(tmp_path / name, tuned, LLAMA)
    return tmp_path


def copy(models, name, who, register="register"):
    return protect(
        models / name, models / f"{name} for {who}", KEY, defence="mark+lock", base=models / "b",
        settings={"licensee": who} if who else {}, register=models / register,
    )  # fmt: skip


def look(models, suspect, **more):
    where = {"base": models / "b", "original": models / "m", "register": models / "register"}
    return unmergeable.trace(models / suspect, **{"key": KEY, **where, **more})


def test_a_copy_for_a_new_name_joins_the_register_and_a_trace_looks_for_it(models):
    for name, who in (("m", "alice"), ("m", "bob"), ("n", "carol"), ("n", "alice")):
        copy(models, name, who)
    found = licensees(models / "register", KEY)
    assert [one.licensee for one in found] == ["alice", "bob", "carol", "alice"]
    assert len({one.release for one in found}) == 2
    report = look(models, "m for bob")
    assert report.release == found[0].release
    assert {one.licensee for one in report.traces} == {"", "alice", "bob"}
    assert report.tests == 3
    assert [one.licensee for one in report.traces if one.found] == ["bob"]


def test_named_licensees_must_be_in_the_register_for_this_expert(models):
    for name, who in (("m", "alice"), ("m", "bob"), ("n", "carol")):
        copy(models, name, who)
    assert look(models, "m for alice", licensees=["alice"]).tests == 1
    for name in ("carol", "alcie"):
        with pytest.raises(InputError, match=f"no copy of this expert for '{name}'"):
            look(models, "m for alice", licensees=["", name])
    with pytest.raises(InputError, match=r"has no copy of this expert\. Is it as it was before"):
        look(models, "m for alice", original=models / "o")
    with pytest.raises(InputError, match="a register opens with the key"):
        look(models, "m for alice", key=None)


def test_it_is_the_owners_alone_and_says_nothing_without_the_key(tmp_path):
    path = tmp_path / "register"
    old = os.umask(0)
    try:
        for one in (A, B, A):
            enter(path, KEY, one)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(old)
    assert licensees(path, KEY) == (A, B)
    text = path.read_text()
    assert not any(word in text for word in ("alice", "bob", A.release[:8], KEY.secret.hex()))
    assert json.loads(text)["key"] == KEY.id
    # As long for one name as for two: the length tells how many there are in steps only.
    enter(tmp_path / "one", KEY, A)
    assert (tmp_path / "one").stat().st_size == path.stat().st_size
    assert {p.name for p in tmp_path.iterdir() if p.is_file()} == {"register", "one"}


def test_a_manifest_does_not_tell_how_long_a_licensees_name_is(models):
    links = [copy(models, "m", who).manifest.chain[0] for who in ("a", "b" * 200)]
    assert len({len(link.secret) for link in links}) == 1
    assert links[0].secret != links[1].secret


def _edited(**changes):
    return lambda document: document | changes


DAMAGED = {
    "another format": (_edited(format="x"), InputError, "is no register"),
    "a newer version": (_edited(version=2), InputError, "version 2; this release reads 1"),
    "no version": (_edited(version=None), InputError, "version None"),
    "said to be of another key": (_edited(key=OTHER.id), KeyFileError, f"not {KEY.id}"),
    "no copies": (_edited(copies=None), KeyFileError, "was changed since"),
    "other copies": (_edited(copies="AAAA"), KeyFileError, "was changed since"),
    "another secret of the key": (
        _edited(copies=KEY.encrypt("mark", b"[]")),
        KeyFileError,
        "was changed since",
    ),
    "a list": (lambda document: [], InputError, "is no register"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_changed_register_is_refused_and_never_written_over(tmp_path, damage):
    path = tmp_path / "register"
    enter(path, KEY, A)
    change, error, message = DAMAGED[damage]
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    before = path.read_bytes()
    for call in (lambda: licensees(path, KEY), lambda: enter(path, KEY, B)):
        with pytest.raises(error, match=message):
            call()
    assert path.read_bytes() == before


def test_a_flipped_bit_anywhere_in_the_copies_is_noticed(tmp_path):
    path = tmp_path / "register"
    enter(path, KEY, A)
    text = path.read_text()
    start = text.index('"copies"') + 11
    for place in range(start, text.rindex('"'), 997):
        changed = "A" if text[place] != "A" else "B"
        path.write_text(text[:place] + changed + text[place + 1 :])
        with pytest.raises(KeyFileError, match="was changed"):
            licensees(path, KEY)


def test_another_keys_register_and_a_place_that_cannot_be_are_refused_before_work(models):
    enter(models / "theirs", OTHER, A)
    (models / "folder").mkdir()
    cases = {
        "theirs": f"is of the key '{OTHER.id}', not {KEY.id}",
        "no/register": "no such folder",
        "folder": "is a folder",
    }
    for name, message in cases.items():
        with pytest.raises((InputError, KeyFileError), match=message):
            copy(models, "m", "alice", name)
        assert not (models / "m for alice").exists()
    with pytest.raises(InputError, match=r"lists licensees.*--licensee"):
        copy(models, "m", "")
    with pytest.raises(InputError, match=r"lists licensees.*--defence mark"):
        protect(models / "m", models / "out", KEY, register=models / "register")
    assert not (models / "register").exists()


def test_a_name_is_in_the_register_before_its_copy_is_there(models, monkeypatch):
    """A copy that nobody knows of could leak unseen; a name without a copy does no harm."""

    def full(path, key, one):
        assert one.licensee == "alice" and not (models / "m for alice").exists()
        raise InputError("no room")

    monkeypatch.setattr("unmergeable.protection.protect.enter", full)
    with pytest.raises(InputError, match="no room"):
        copy(models, "m", "alice")
    assert not (models / "m for alice").exists()


def test_a_write_that_fails_leaves_the_register_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "register"
    enter(path, KEY, A)
    before = path.read_bytes()

    def fails(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(registers.os, "fsync", fails)
    for place in (path, tmp_path / "new"):
        with pytest.raises(InputError, match="No space left"):
            enter(place, KEY, B)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["register"]


def test_a_link_keeps_leading_to_the_register(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "register")
    for one in (A, B):
        enter(tmp_path / "link", KEY, one)
    assert (tmp_path / "link").is_symlink()
    assert licensees(tmp_path / "register", KEY) == (A, B)


def _enter_many(path, start):
    for number in range(start, start + 10):
        enter(path, KEY, LicensedCopy(f"licensee {number}", A.release))


def test_runs_at_once_lose_no_name(tmp_path):
    context = multiprocessing.get_context("fork")
    runs = [
        context.Process(target=_enter_many, args=(tmp_path / "register", 10 * n)) for n in range(3)
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    names = {one.licensee for one in licensees(tmp_path / "register", KEY)}
    assert names == {f"licensee {number}" for number in range(30)}
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["register"]
