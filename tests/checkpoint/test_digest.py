"""The digest of a model's weights: the same however they are sharded, another for any change."""

from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from xxhash import xxh3_128

from tests.tiny import hashes_of, llama
from unmergeable.checkpoint.digest import CHECKSUM, file_digest, shard_digest, weights_digest
from unmergeable.checkpoint.folder import open_folder
from unmergeable.checkpoint.header import Header, TensorEntry
from unmergeable.checkpoint.keyed_hash import published
from unmergeable.keys.key import Key
from unmergeable.protection.protect import protect, unlock

ENTRIES = {
    "b": TensorEntry("b", "F32", (2, 3), 100, 24),
    "a": TensorEntry("a", "BF16", (), 124, 2),
}
DIGESTS = {"a": "aa", "b": "bb"}


def test_the_digest_is_what_it_says():
    text = b"a\0BF16\0\0aa\nb\0F32\x002,3\0bb\n"
    assert weights_digest(ENTRIES, DIGESTS) == sha256(text).hexdigest()


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


@pytest.mark.parametrize("kind", ["lossless", "general"])
def test_files_that_may_be_forged_are_hashed_with_the_key_on_both_ways(tmp_path, kind):
    """And the open weights of either way with what finds accidents."""
    model, key = llama(tmp_path / "m"), Key(bytes(32))
    manifest = protect(model, tmp_path / "out", key, settings={"kind": kind}).manifest
    header = open_folder(tmp_path / "out").files[0]
    hashes = hashes_of(tmp_path / "out", published(key))
    assert manifest.files["model.safetensors"] == shard_digest(header, hashes)
    back = unlock(tmp_path / "out", tmp_path / "back", key)
    for folder, found in ((model, manifest.weights["original"]), (tmp_path / "back", back.weights)):
        sums = hashes_of(folder, xxh3_128)
        assert found == weights_digest(open_folder(folder).tensors, sums)


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


def test_the_digest_of_a_shard_covers_every_byte(tmp_path):
    path = llama(tmp_path / "m") / "model.safetensors"
    first, content = file_digest(path, CHECKSUM), path.read_bytes()
    length = 8 + int.from_bytes(content[:8], "little")
    for place in (length, len(content) - 1, content.index(b'"pt"') + 1):
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        assert file_digest(path, CHECKSUM) != first


def test_a_shard_is_told_from_one_whose_tensors_changed_places():
    header = Header(Path("m"), b"header", tuple(ENTRIES.values()))
    assert shard_digest(header, DIGESTS) == sha256(b"headerbb\naa\n").hexdigest()
    assert shard_digest(header, {"a": "bb", "b": "aa"}) != shard_digest(header, DIGESTS)
