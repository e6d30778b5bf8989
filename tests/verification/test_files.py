"""A folder's files against its manifest, by anyone: what differs is named, whatever it is."""

import json
import os
from pathlib import Path

import pytest

from tests.tiny import add_tokenizer, llama
from unmergeable.errors import KeyFileError, ManifestError
from unmergeable.keys.key import Key
from unmergeable.protection.protect import protect
from unmergeable.verification.files import verify_files

KEY, OTHER = Key(bytes(range(32))), Key(bytes(32))
FIRST, SECOND = (f"model-0000{n}-of-00002.safetensors" for n in (1, 2))


@pytest.fixture
def locked(tmp_path):
    """A locked model of two shards, with a tokenizer and a card."""
    model = add_tokenizer(llama(tmp_path / "m", shards=2))
    (model / "README.md").write_text("a card")
    protect(model, tmp_path / "locked", KEY)
    return tmp_path / "locked"


def _flip(name, place=-1):
    def change(folder):
        raw = bytearray((folder / name).read_bytes())
        raw[place] ^= 1
        (folder / name).write_bytes(raw)

    return change


def _cut(name, size):
    return lambda folder: os.truncate(folder / name, size)


def _write(name, content="{}"):
    def change(folder):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)

    return change


def _rename(name, other):
    return lambda folder: (folder / name).rename(folder / other)


def _exchange(folder):
    (folder / FIRST).rename(folder / "x")
    (folder / SECOND).rename(folder / FIRST)
    (folder / "x").rename(folder / SECOND)


def _link(to):
    def change(folder):
        (folder / FIRST).rename(folder.parent / "outside")
        (folder / FIRST).symlink_to(folder.parent / to)

    return change


def _pipe(folder):
    (folder / FIRST).unlink()
    os.mkfifo(folder / FIRST)


def _manifest_from_elsewhere(folder):
    """Of the same model under another key: tokenizer and config are the same."""
    protect(folder.parent / "m", folder.parent / "other", OTHER)
    (folder.parent / "other" / "unmergeable.json").replace(folder / "unmergeable.json")


CHANGES = {
    "a bit of the weights": (_flip(FIRST), {"changed": (FIRST,)}),
    "a bit of a header": (_flip(SECOND, 30), {"changed": (SECOND,)}),
    "a bit of the tokenizer": (_flip("tokenizer.json"), {"changed": ("tokenizer.json",)}),
    "the config": (_write("config.json"), {"changed": ("config.json",)}),
    "weights cut short": (_cut(FIRST, 5000), {"changed": (FIRST,)}),
    "a header cut short": (_cut(FIRST, 5), {"changed": (FIRST,)}),
    "no bytes": (_cut(SECOND, 0), {"changed": (SECOND,)}),
    "a shard missing": (lambda folder: (folder / FIRST).unlink(), {"missing": (FIRST,)}),
    "no config": (lambda f: (f / "config.json").unlink(), {"missing": ("config.json",)}),
    "a shard renamed": (_rename(FIRST, "x.bin"), {"missing": (FIRST,), "added": ("x.bin",)}),
    "shards exchanged": (_exchange, {"changed": (FIRST, SECOND)}),
    "more weights": (_write("pytorch_model.bin"), {"added": ("pytorch_model.bin",)}),
    "more weights below": (_write("onnx/model.onnx"), {"added": ("onnx/model.onnx",)}),
    "an adapter": (_write("adapter_config.json"), {"added": ("adapter_config.json",)}),
    "code": (_write("modeling_x.py"), {"added": ("modeling_x.py",)}),
    "a template": (_write("chat_template.jinja"), {"added": ("chat_template.jinja",)}),
    "a link to another file": (_link("m/config.json"), {"changed": (FIRST,)}),
    "a broken link": (_link("nothing"), {"missing": (FIRST,)}),
    "a pipe": (_pipe, {"missing": (FIRST,)}),
    "a manifest from elsewhere": (_manifest_from_elsewhere, {"changed": (FIRST, SECOND)}),
}  # fmt: skip


@pytest.mark.parametrize("case", CHANGES)
def test_what_differs_is_named(locked, case):
    change, wanted = CHANGES[case]
    change(locked)
    report = verify_files(locked)
    assert not report.same
    found = {part: getattr(report.files, part) for part in ("changed", "missing", "added")}
    assert found == {"changed": (), "missing": (), "added": (), **wanted}


def test_a_folder_as_it_was_written_is_the_same(locked):
    read = []
    report = verify_files(locked, progress=read.append)
    files = [path for path in locked.iterdir() if path.name != "unmergeable.json"]
    assert report.same and report.files.compared == len(files) == 7
    assert read[-1].done == read[-1].total == sum(path.stat().st_size for path in files)
    assert report.unlisted == () and report.sealed is None and report.key == KEY.id


@pytest.mark.parametrize(
    ("change", "unlisted", "cards"),
    [
        (_write("README.md"), (), ("README.md",)),
        (_write("LICENSE"), (), ()),
        (_write("model.sig"), ("model.sig",), ()),
        (_write(".cache/pytorch_model.bin"), (), ()),
        (_link("outside"), (), ()),
    ],
    ids=["an edited card", "a licence added", "a signature added", "a hidden folder", "a link"],
)
def test_what_decides_nothing_is_no_difference(locked, change, unlisted, cards):
    change(locked)
    report = verify_files(locked)
    assert report.same
    assert (report.unlisted, report.files.cards) == (unlisted, cards)


def _forge(folder: Path):
    """Other weights, and a manifest that lists them."""
    from blake3 import blake3

    _flip(FIRST)(folder)
    path = folder / "unmergeable.json"
    document = json.loads(path.read_text())
    document["files"][FIRST] = blake3((folder / FIRST).read_bytes()).hexdigest()
    path.write_text(json.dumps(document))


def test_a_manifest_that_was_rewritten_is_found_with_the_key_alone(locked):
    assert verify_files(locked, key=KEY).sealed
    _forge(locked)
    assert verify_files(locked).same
    report = verify_files(locked, key=KEY)
    assert report.files.same and report.sealed is False and not report.same


def _edit(**changes):
    def change(folder):
        path = folder / "unmergeable.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "unmergeable.json").unlink(), "has no unmergeable.json"),
        (_write("unmergeable.json", "{"), "is damaged"),
        (_edit(version=6), "has version 6: only the owner of the key could check its digests"),
        (_edit(files={}), "lists no files"),
    ],
    ids=["none", "damaged", "old", "empty"],
)
def test_a_manifest_that_says_nothing_is_refused(locked, change, message):
    change(locked)
    with pytest.raises(ManifestError, match=message):
        verify_files(locked)


def test_another_key_is_refused(locked):
    with pytest.raises(KeyFileError, match="was protected with the key"):
        verify_files(locked, key=OTHER)


def test_files_at_an_address_are_checked_there(locked):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(str(locked), "/verify-files", recursive=True)
    try:
        assert verify_files("memory://verify-files", key=KEY).same
        memory.pipe(f"/verify-files/{FIRST}", b"other")
        assert verify_files("memory://verify-files").files.changed == (FIRST,)
    finally:
        memory.rm("/verify-files", recursive=True)
