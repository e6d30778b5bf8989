"""The digest of a model's weights: the same however they are sharded, another for any change."""

import hashlib
from dataclasses import replace

import pytest

from tests.tiny import llama
from unmergeable.checkpoint.digest import weights_digest
from unmergeable.checkpoint.folder import open_folder
from unmergeable.checkpoint.header import TensorEntry
from unmergeable.keys import Key
from unmergeable.protection import protect

ENTRIES = {
    "b": TensorEntry("b", "F32", (2, 3), 100, 24),
    "a": TensorEntry("a", "BF16", (), 124, 2),
}
DIGESTS = {"a": "aa", "b": "bb"}


def test_the_digest_is_what_it_says():
    text = b"a\0BF16\0\0aa\nb\0F32\x002,3\0bb\n"
    assert weights_digest(ENTRIES, DIGESTS) == hashlib.sha256(text).hexdigest()


@pytest.mark.parametrize(
    ("entry", "digest"),
    [
        (replace(ENTRIES["b"], dtype="I32"), "bb"),
        (replace(ENTRIES["b"], shape=(3, 2)), "bb"),
        (ENTRIES["b"], "bc"),
    ],
)
def test_any_change_changes_it(entry, digest):
    changed = weights_digest({**ENTRIES, "b": entry}, {**DIGESTS, "b": digest})
    assert changed != weights_digest(ENTRIES, DIGESTS)


def test_places_and_shards_do_not(tmp_path):
    moved = {name: replace(entry, start=0) for name, entry in sorted(ENTRIES.items())}
    assert weights_digest(moved, DIGESTS) == weights_digest(ENTRIES, DIGESTS)
    digests = set()
    for shards in (1, 3):
        model = llama(tmp_path / f"m{shards}", shards=shards)
        assert len(open_folder(model).files) == shards
        report = protect(model, tmp_path / f"out{shards}", Key(bytes(32)))
        digests.add(report.manifest.weights["original"])
    assert len(digests) == 1
