"""Files beside the weights: what was edited, removed or added is named, and not given back."""

import json
from dataclasses import replace

import pytest

from tests.tiny import add_tokenizer, content, llama
from unmergeable.checkpoint.digest import digest_of
from unmergeable.checkpoint.file_comparison import (
    all_with_manifest,
    is_card,
    listed,
    with_folder,
    with_manifest,
)
from unmergeable.checkpoint.folder import open_folder
from unmergeable.checkpoint.manifest import read_manifest
from unmergeable.errors import ManifestError
from unmergeable.keys.key import Key
from unmergeable.protection.protect import protect, unlock

KEY = Key(bytes(range(32)))
DECIDING = (
    "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json",
    "modeling_x.py", "merges.txt", "1_Pooling/config.json",
)  # fmt: skip
CARDS = (
    "README.md",
    "LICENSE",
    "licence.txt",
    ".gitattributes",
    "NOTICE",
    "USE_POLICY.md",
)


@pytest.fixture
def folders(tmp_path):
    """A model with files of all kinds, and the locked one."""
    code = {"auto_map": {"AutoModel": "modeling_x.X"}}
    model = add_tokenizer(llama(tmp_path / "m", shards=2, **code))
    for name in (*DECIDING[2:], *CARDS):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text("{}")
    protect(model, tmp_path / "l", KEY)
    return model, tmp_path / "l"


@pytest.mark.parametrize("name", (*DECIDING, "license.py", "readme.json", *CARDS, "plot.png"))
def test_cards_are_what_people_read(name):
    assert is_card(name) == (name in (*CARDS, "plot.png"))


def test_copies_are_the_same(folders):
    model, locked = map(open_folder, folders)
    found = with_folder(model, locked)
    recorded = with_manifest(locked, read_manifest(locked.path))
    assert found.same and recorded.same
    assert found.compared == len(DECIDING) + len(CARDS) + 1  # and the config
    assert recorded.compared == found.compared + 1  # and the index
    assert not found.sentences("l", "m") + recorded.sentences("l", "m") + list(found.cards)


@pytest.mark.parametrize("name", DECIDING)
@pytest.mark.parametrize("how", ["changed", "missing", "added"])
def test_a_file_that_decides_is_named(folders, name, how):
    model, locked = folders
    if how == "changed":
        (locked / name).write_text('{"a": 1}')
    elif how == "missing":
        (locked / name).unlink()
    else:
        (model / name).unlink()
    found = with_folder(open_folder(model), open_folder(locked))
    assert getattr(found, how) == (name,) and not found.same
    assert [name in line for line in found.sentences("l", "m")] == [True]
    recorded = with_manifest(open_folder(locked), read_manifest(locked))
    assert recorded.same == (how == "added")
    assert how == "added" or getattr(recorded, how) == (name,)


def test_edited_cards_pass_and_are_said(folders, tmp_path):
    model, locked = folders
    (locked / "README.md").write_text("better")
    (locked / "LICENSE").unlink()
    (locked / "CHANGELOG.md").write_text("new")
    found = with_folder(open_folder(model), open_folder(locked))
    assert found.same and set(found.cards) == {"README.md", "LICENSE"}
    report = unlock(locked, tmp_path / "u", KEY)
    assert report.exact and set(report.edited) == {"README.md", "LICENSE"} and not report.missing
    assert (tmp_path / "u" / "README.md").read_text() == "better"
    assert report.left_out == ("CHANGELOG.md",)


@pytest.mark.parametrize("name", [*DECIDING, "config.json", "model.safetensors.index.json"])
def test_unlock_publishes_nothing_that_was_tampered_with(folders, tmp_path, name):
    _, locked = folders
    document = json.loads((locked / name).read_text())
    (locked / name).write_text(json.dumps({**document, "a": 1}))
    before = content(tmp_path)
    with pytest.raises(ManifestError) as error:
        unlock(locked, tmp_path / "u", KEY)
    assert name in str(error.value) and "Nothing was written" in str(error.value)
    assert "\n" not in str(error.value)
    assert content(tmp_path) == before


def test_what_was_tampered_with_can_be_deleted_to_get_the_weights_back(folders, tmp_path):
    model, locked = folders
    (locked / "tokenizer.json").write_text("{}")
    (locked / "modeling_x.py").unlink()
    with pytest.raises(ManifestError, match=r"tokenizer\.json.*Missing besides: modeling_x\.py"):
        unlock(locked, tmp_path / "u", KEY)
    (locked / "tokenizer.json").unlink()
    report = unlock(locked, tmp_path / "u", KEY)
    assert report.exact and report.missing == ("modeling_x.py", "tokenizer.json")
    gone = {name: data for name, data in content(model).items() if name not in report.missing}
    assert content(tmp_path / "u") == gone


def test_a_file_that_changes_while_unlock_runs_is_not_published(folders, tmp_path, monkeypatch):
    from unmergeable.checkpoint.folder import ModelFolder

    _, locked = folders
    plain, seen = ModelFolder.read_companion, []

    def read(self, name):
        seen.append(name)
        return b"other" if seen.count(name) == 2 and name == "merges.txt" else plain(self, name)

    monkeypatch.setattr(ModelFolder, "read_companion", read)
    with pytest.raises(ManifestError, match=r"merges\.txt is not the file"):
        unlock(locked, tmp_path / "u", KEY)
    assert not (tmp_path / "u").exists()


def test_a_manifest_names_files_and_opens_none(folders):
    """It is anybody's who has no key: a path out of the folder is a file that is not there."""
    _, locked = folders
    outside = {"../m/README.md": digest_of(b"{}"), "/etc/passwd": "", "x\ny" * 4000: "", "a": 3}
    manifest = replace(read_manifest(locked), files=outside)
    for found in (
        with_manifest(open_folder(locked), manifest),
        all_with_manifest(locked, outside, int)[0],
    ):
        assert found.missing == ("../m/README.md", "/etc/passwd", "a", "x\ny" * 4000)
        assert not found.cards
        for line in found.sentences("l", "m"):
            assert "\n" not in line and len(line) < 600


def test_a_list_of_names_is_bounded():
    assert listed(["a", "b"]) == "a, b"
    many = listed([f"{n}{'x' * 1000}" for n in range(1000)])
    assert many.endswith("and 995 more") and len(many) < 500
