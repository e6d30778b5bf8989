"""Headers, indexes, configs and lists of modules, mutated: each is read, or refused in one line."""

import json
import random

import pytest

from tests.tiny import llama
from unmergeable.architectures.layout import Layout
from unmergeable.checkpoint.folder import open_folder
from unmergeable.checkpoint.manifest import read_manifest
from unmergeable.errors import UnmergeableError
from unmergeable.keys.key import Key
from unmergeable.protection.protect import protect

INDEX = "model.safetensors.index.json"
SHARD = "model-00001-of-00002.safetensors"
PIECES = [
    *(b'"', b"{", b"}", b"[", b"]", b",", b":", b"-", b"0", b"9", b"null", b"true", b"NaN", b"1e9"),
    *(b"\\u", b"\\ud800", b"\xff", b"\0", b"\n", b"\x1b[2J", b"", b" ", b"-1", b"1e999", b"{}"),
    *(b"9" * 5000, b"[" * 5000, b"a" * (1 << 20), b'{"a":' * 500, b"../", b"/etc/passwd", b"[]"),
]
VALUES = [
    *(None, True, -1, 0, 1, 2**31, 2**63, 10**30, 1.5, 1e300, float("inf"), float("nan"), "", "a"),
    *(
        [],
        {},
        [[]],
        {"a": {}},
        ["a"] * 100,
        "a" * (1 << 20),
        "\x1b\n",
        "../x",
        {"": None},
        [0] * 70,
    ),
]


def _mutant(text, chance):
    """Text with one to three pieces exchanged, or a value in it."""
    if chance.random() < 0.5:
        try:
            document = json.loads(text)
        except ValueError:
            document = None
        if isinstance(document, dict | list):
            _change(document, chance)
            return json.dumps(document).encode()
    for _ in range(chance.randint(1, 3)):
        place, size = chance.randrange(len(text)), chance.choice([0, 0, 1, 2, 8])
        text = text[:place] + chance.choice(PIECES) + text[place + size :]
    return text


def _change(document, chance):
    """Gives a random place of a document another value."""
    while True:
        places = list(document) if isinstance(document, dict) else list(range(len(document)))
        if not places:
            return
        place = chance.choice(places)
        inner = document[place]
        if not isinstance(inner, dict | list) or not inner or chance.random() < 0.3:
            document[place] = chance.choice(VALUES)
            return
        document = inner


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = llama(tmp_path_factory.mktemp("mutants") / "m", shards=2)
    rows = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    (folder / "modules.json").write_text(json.dumps(rows))
    protect(folder, folder.parent / "out", Key(bytes(range(32))))
    return folder.parent / "out"


def _read(folder):
    opened = open_folder(folder)
    _ = opened.companions, opened.modules, read_manifest(folder)
    Layout.of(opened.config, opened.shapes)


@pytest.mark.parametrize("name", [SHARD, INDEX, "config.json", "modules.json", "unmergeable.json"])
def test_a_mutant_is_read_or_refused_in_one_line(model, name):
    chance, path = random.Random(name), model / name
    whole = path.read_bytes()
    refused = 0
    try:
        for _ in range(80):
            if name == SHARD:
                size = int.from_bytes(whole[:8], "little")
                text = _mutant(whole[8 : 8 + size], chance)
                data = len(text).to_bytes(8, "little") + text + whole[8 + size :]
            else:
                data = _mutant(whole, chance)
            path.write_bytes(data)
            try:
                _read(model)
            except UnmergeableError as error:
                refused += 1
                sentence = str(error)
                assert sentence.isprintable()
                assert len(sentence) < 1000, sentence[:200]
    finally:
        path.write_bytes(whole)
    assert refused > 20
    _read(model)
