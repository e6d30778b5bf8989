"""Digests: a file's own BLAKE3 however its pieces come; weights', however they are sharded."""

import threading
from dataclasses import replace
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny import content, hashes_of, llama
from unmergeable.checkpoint.digest import (
    FileHash,
    digest_of,
    file_digest,
    headers_digest,
    weights_digest,
)
from unmergeable.checkpoint.folder import open_folder
from unmergeable.checkpoint.header import Header, TensorEntry
from unmergeable.keys.key import Key
from unmergeable.protection.protect import protect, unlock

ENTRIES = {
    "b": TensorEntry("b", "F32", (2, 3), 100, 24),
    "a": TensorEntry("a", "BF16", (), 124, 2),
}
DIGESTS = {"a": "aa", "b": "bb"}
# Of no bytes, and of 251 bytes that count up, repeated to 2049 bytes: of BLAKE3's own test vectors.
EMPTY = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
COUNTED = "5f4d72f40d7a5f82b15ca2b2e44b1de3c2ef86c426c95c1af0b6879522563030"


def test_it_is_blake3(tmp_path, monkeypatch):
    counted = bytes(n % 251 for n in range(2049))
    assert (digest_of(b""), digest_of(counted)) == (EMPTY, COUNTED)
    monkeypatch.setattr("unmergeable.checkpoint.source._PART", 1000)
    (tmp_path / "f").write_bytes(counted)
    read = []
    assert file_digest(tmp_path / "f", read.append) == COUNTED
    assert read == [1000, 1000, 49]


@given(st.lists(st.binary(max_size=9), max_size=6), st.randoms())
def test_a_file_is_hashed_whatever_comes_first(pieces, random):
    whole, hasher = b"".join(pieces), FileHash()
    starts = [len(b"".join(pieces[:n])) for n in range(len(pieces))]
    order = list(zip(starts, pieces, strict=True))
    random.shuffle(order)
    for start, piece in order:
        taken = bytearray(piece)
        hasher.update(memoryview(taken), start)
        taken[:] = bytes(len(taken))  # the next piece takes its place
    assert hasher.hexdigest() == blake3(whole).hexdigest()


def test_a_file_is_hashed_by_threads_that_do_not_wait_for_each_other():
    """While one thread hashes, another brings what follows, and the first goes on with that."""
    hasher, plain, first, second = FileHash(), blake3(), threading.Event(), threading.Event()

    class Slow:
        def update(self, piece):
            first.set()
            assert second.wait(10)
            plain.update(piece)

        def hexdigest(self):
            return plain.hexdigest()

    hasher._hasher = Slow()
    thread = threading.Thread(target=hasher.update, args=(memoryview(b"ab"), 0))
    thread.start()
    assert first.wait(10)
    hasher.update(memoryview(b"cd"), 2)
    second.set()
    thread.join()
    hasher.update(memoryview(b"ef"), 4)
    assert hasher.hexdigest() == blake3(b"abcdef").hexdigest()


def test_a_file_with_a_gap_has_no_digest():
    hasher = FileHash()
    hasher.update(memoryview(b"cd"), 2)
    with pytest.raises(AssertionError, match="a piece at 0 is missing"):
        hasher.hexdigest()


def test_the_digest_of_weights_is_what_it_says():
    text = b"a\0BF16\0\0aa\nb\0F32\x002,3\0bb\n"
    assert weights_digest(ENTRIES, DIGESTS) == blake3(text).hexdigest()


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


def test_headers_are_digested_with_their_names_in_any_order():
    one, two = Header(Path("x/1"), b"one", ()), Header(Path("x/2"), b"two", ())
    assert headers_digest([one, two]) == headers_digest([two, one])
    others = ([one], [one, replace(two, raw=b"tow")], [replace(one, raw=b"two"), two])
    swapped = [replace(one, raw=b"two"), replace(two, raw=b"one")]
    assert len({headers_digest(some) for some in ([one, two], swapped, *others)}) == 5


@pytest.mark.parametrize("kind", ["lossless", "general"])
@pytest.mark.parametrize("workers", [1, 3])
def test_the_manifest_has_what_anyone_computes(tmp_path, kind, workers):
    """Plain digests of the files; of the weights, those that unlocking is held to."""
    model, key = llama(tmp_path / "m", shards=2), Key(bytes(32))
    manifest = protect(
        model, tmp_path / "out", key, settings={"kind": kind}, workers=workers
    ).manifest
    files = content(tmp_path / "out")
    del files["unmergeable.json"]
    assert manifest.files == {name: blake3(data).hexdigest() for name, data in files.items()}
    known, where = ("original", model) if kind == "lossless" else ("locked", tmp_path / "out")
    folder = open_folder(where)
    assert manifest.weights == {
        "headers": headers_digest(folder.files),
        known: weights_digest(folder.tensors, hashes_of(where, blake3)),
    }
    back = unlock(tmp_path / "out", tmp_path / "back", key, workers=workers)
    tensors = open_folder(tmp_path / "back").tensors
    assert back.weights == weights_digest(tensors, hashes_of(tmp_path / "back", blake3))


def test_places_and_shards_do_not_change_it(tmp_path):
    moved = {name: replace(entry, start=0) for name, entry in sorted(ENTRIES.items())}
    assert weights_digest(moved, DIGESTS) == weights_digest(ENTRIES, DIGESTS)
    digests = set()
    for shards in (1, 3):
        model = llama(tmp_path / f"m{shards}", shards=shards)
        assert len(open_folder(model).files) == shards
        report = protect(model, tmp_path / f"out{shards}", Key(bytes(32)))
        digests.add(report.manifest.weights["original"])
    assert len(digests) == 1
