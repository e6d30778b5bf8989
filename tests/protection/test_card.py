"""The model card: what is added is what was done, what was there stays, and unlock takes it out."""

import json

import pytest
from huggingface_hub import RepoCard

from tests.tiny import content, llama
from unmergeable.cli import main
from unmergeable.errors import InputError
from unmergeable.keys.key import Key, keygen
from unmergeable.protection.card import BEGIN, Card, without
from unmergeable.protection.protect import protect, unlock
from unmergeable.protection.relock import relock
from unmergeable.verification.files import verify_files

KEY = Key(bytes(range(32)))
FULL = Card("models@example.org", "other", "house license", "https://example.org/license#1")

CARDS = {
    "no card": None,
    "empty": "",
    "no metadata": "# A model\n\nText.\n",
    "no line break at the end": "# A model",
    "metadata": "---\nlanguage: en\nlicense: other\n---\n\n# A model\n",
    "tags": "---\ntags:\n- a\n- no   # Norwegian\nlanguage: no\n---\n# A model\n",
    "tags, indented": "---\nx:\n  tags:\n    - z\ntags:\n  - a\n\n# a comment\ny: 1\n---\n",
    "tags in brackets": "---\ntags: [a,\n  'b']\nlicense: other\n---\n# A model\n",
    "one tag": "---\ntags: a\n---\n# A model\n",
    "no tags": "---\ntags:\nlicense:\n---\n# A model\n",
    "our tags": "---\ntags: [unmergeable, lock]\n---\n# A model\n",
    "base": "---\nbase_model: owner/base\n---\n",
    "bases": "---\nbase_model: [owner/a, owner/b]\nbase_model_relation: merge\n---\n",
    "text in the end": "---\ndescription: |\n  two\n  lines\n---\n# A model\n",
    "other line breaks": "---\r\ntags:\r\n- a\r\n---\r\n\r\n# A model\r\n",
    "a byte order mark": "\ufeff---\ntags:\n- a\n---\n# A model\n",
    "empty metadata": "---\n\n---\n# A model\n",
    "spaces after the dashes": "---\nlicense: other\n---  \n# A model\n",
    "a line in the text": "# A model\n---\ntags: [x]\n---\n",
    "many line breaks at the end": "# A model\n\n\n\n",
    "figures": "---\nmodel-index:\n- name: x\n  results:\n  - odd: {a: 1e3}\n---\n# A model\n",
}


def expert(folder, card):
    model = llama(folder)
    if card is not None:
        (model / "README.md").write_bytes(card.encode())
    return model


@pytest.mark.parametrize("card", CARDS)
def test_unlocking_gives_the_card_back_byte_for_byte(tmp_path, card, monkeypatch):
    base = llama(tmp_path / "b")
    monkeypatch.setattr("unmergeable.protection.protect.resolve", lambda name: base)
    model = expert(tmp_path / "m", CARDS[card])
    report = protect(model, tmp_path / "locked", KEY, card=FULL, base="owner/base")
    raw = (tmp_path / "locked" / "README.md").read_bytes()
    made, before = RepoCard(raw.decode("utf-8-sig")), CARDS[card] or ""
    old = RepoCard(before.removeprefix("\ufeff")).data.to_dict()
    new = made.data.to_dict()
    assert new["license"] == "other" and new["license_name"] == "house license"
    assert new["license_link"] == "https://example.org/license#1"
    assert new["tags"][-2:] == ["unmergeable", "lock"]
    named = {"tags in brackets": ["a", "b"], "tags, indented": ["a"], "one tag": ["a"]}
    assert new["tags"][:-2] == named.get(card, new["tags"][:-2])
    if card == "tags":
        assert new["tags"] == ["a", "no", "unmergeable", "lock"]
    assert new["base_model"] == old.get("base_model", "owner/base")
    assert new["base_model_relation"] == old.get("base_model_relation", "finetune")
    for name, value in old.items():
        assert name == "tags" or new[name] in (value, f"{value}\n")  # a text in the end
    assert "models@example.org" in made.text and "`lock`" in made.text
    assert "\n\n" not in raw.decode().replace("\r\n", "") or b"\r\n" not in raw
    assert verify_files(tmp_path / "locked", key=KEY).files.cards == ()
    assert report.manifest.files["README.md"]
    back = unlock(tmp_path / "locked", tmp_path / "out", KEY)
    assert back.exact and not back.edited
    assert content(tmp_path / "out") == content(model)


def test_what_stood_there_stands_there_still(tmp_path):
    text = "---\nlanguage: no  # Norwegian\nlicense: mit\n---\n# Of  odd   spaces\t\n"
    protect(expert(tmp_path / "m", text), tmp_path / "locked", KEY, card=Card())
    made = (tmp_path / "locked" / "README.md").read_text()
    assert made.startswith("---\nlanguage: no  # Norwegian\nlicense: mit\ntags:  # unmergeable\n")
    assert f"---\n# Of  odd   spaces\t\n\n\n{BEGIN}\n" in made
    assert "license_name" not in made and "ask:" not in made and "base_model" not in made


def test_a_folder_whose_path_looks_like_an_id_is_not_written_down(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    llama(tmp_path / "owner" / "base")
    protect(expert(tmp_path / "m", None), tmp_path / "locked", KEY, card=FULL, base="owner/base")
    assert "base_model" not in (tmp_path / "locked" / "README.md").read_text()


def test_without_card_it_is_copied(tmp_path):
    model = expert(tmp_path / "m", "# A model")
    protect(model, tmp_path / "locked", KEY)
    assert (tmp_path / "locked" / "README.md").read_text() == "# A model"


@pytest.mark.parametrize(
    ("defence", "settings", "said", "unsaid"),
    [
        ("lock", {}, ["`lock`", "computes what it computed before, in"], ["a mark", "rounding"]),
        ("lock", {"kind": "general"}, ["to within one rounding"], ["a mark"]),
        ("mark+lock", {"licensee": "alice"}, ["carry a mark", "`lock`"], ["alice"]),
        ("mark", {}, ["carry a mark"], ["other coordinates", "merge tool"]),
    ],
)
def test_the_section_says_what_was_done_and_not_for_whom(tmp_path, defence, settings, said, unsaid):
    base = llama(tmp_path / "b", seed=1)
    protect(
        expert(tmp_path / "m", None), tmp_path / "out", KEY, defence=defence, settings=settings,
        base=base, card=Card(),
    )  # fmt: skip
    made = (tmp_path / "out" / "README.md").read_text()
    assert all(words in made for words in said)
    assert not any(words in made for words in unsaid)
    assert RepoCard(made).data.tags == ["unmergeable", *defence.split("+")]


def test_edits_made_meanwhile_stay(tmp_path):
    protect(expert(tmp_path / "m", CARDS["tags"]), tmp_path / "locked", KEY, card=FULL)
    path = tmp_path / "locked" / "README.md"
    path.write_text(
        path.read_text()
        .replace("language: no", "language: de")
        .replace("\n---\n#", "\nlibrary_name: transformers\n---\n#")
        .replace("# A model", "# Better")
        + "\nMore.\n"
    )
    assert unlock(tmp_path / "locked", tmp_path / "out", KEY).edited == ("README.md",)
    made = (tmp_path / "out" / "README.md").read_text()
    assert made == (
        "---\ntags:\n- a\n- no   # Norwegian\nlanguage: de\nlibrary_name: transformers\n---\n"
        "# Better\n\n\n\nMore.\n"
    )


def test_a_card_of_ours_is_not_added_to_twice_and_goes_along_when_relocked(tmp_path):
    model = expert(tmp_path / "m", "# A model\n")
    protect(model, tmp_path / "locked", KEY, card=FULL)
    made = (tmp_path / "locked" / "README.md").read_bytes()
    new = Key(bytes(32))
    relock(tmp_path / "locked", tmp_path / "moved", KEY, new)
    assert (tmp_path / "moved" / "README.md").read_bytes() == made
    unlock(tmp_path / "moved", tmp_path / "out", new)
    assert content(tmp_path / "out") == content(model)
    for name, text in (("m", made), ("bare", None)):
        model = expert(tmp_path / name, None)
        if text is None:
            protect(model, tmp_path / "bare locked", KEY, card=FULL)
            text = (tmp_path / "bare locked" / "README.md").read_bytes()
        (model / "README.md").write_bytes(text)
        protect(model, tmp_path / f"{name} again", KEY, card=FULL)
        assert (tmp_path / f"{name} again" / "README.md").read_bytes() == text


@pytest.mark.parametrize(
    "text", ["", "# x\n", "---\na: 1\n---\n", f"# x\n{BEGIN}\n", f"{BEGIN}\udcff"]
)
def test_a_card_without_anything_of_ours_comes_back_as_it_is(text):
    raw = text.encode(errors="surrogateescape")
    assert without(raw) == raw


REFUSED = {
    "another licence": ("---\nlicense: mit\n---\n", "says license: 'mit', not 'other'"),
    "not YAML": ("---\na: [\n---\n", "it is not YAML"),
    "a list": ("---\n- a\n---\n", "it is not one field a line"),
    "one line": ("---\n{license: other}\n---\n", "it is not one field a line"),
    "aliases": ("---\ntags: &x [a]\nother: *x\n---\n", "it has aliases"),
    "tags of lists": ("---\ntags: [[a]]\n---\n", "its tags are not a list of words"),
    "two fields on a line": ('---\n"tags": [a]\n? x\n: y\n...\n---\n', "cannot be added to"),
    "nested deeply": ("---\na: " + "[" * 5000 + "\n---\n", "it is not YAML"),
    "not text": ("\udcff", "is not text"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_card_that_cannot_be_added_to_is_refused_before_work(tmp_path, case):
    text, message = REFUSED[case]
    model = llama(tmp_path / "m")
    (model / "README.md").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=message):
        protect(model, tmp_path / "out", KEY, card=FULL)
    assert not {"out", ".out.partial"} & {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("field", ["contact", "license", "license_name", "license_link"])
@pytest.mark.parametrize("value", ["two\nlines", "x" * 501, "<!-- x -->"])
def test_a_value_that_would_break_the_card_is_refused(field, value):
    with pytest.raises(InputError, match=f"{field} of the card: give one line"):
        Card(**{field: value})


def test_the_command_line_writes_a_card(tmp_path, capsys):
    expert(tmp_path / "m", "# A model\n")
    keygen(tmp_path / "k")
    call = ["protect", tmp_path / "m", tmp_path / "out", "--key", tmp_path / "k", "--json"]
    call += ["--license-name", "ours"]
    assert main([str(word) for word in call]) == 4
    assert "add --card" in json.loads(capsys.readouterr().out)["error"]["message"]
    call += ["--card", "--contact", "me"]
    assert main([str(word) for word in call]) == 0
    data = RepoCard((tmp_path / "out" / "README.md").read_text()).data
    assert (data.license, data.license_name) == ("other", "ours")
