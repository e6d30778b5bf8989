"""Relock: the new key gives back what the old one gave, and no open weight was on a disk."""

import json
import pickle
from contextlib import ExitStack
from dataclasses import replace

import fsspec
import numpy as np
import pytest

import unmergeable
from tests.checkpoint.test_remote import at, upload
from tests.protection.mixtral import mixtral
from tests.tiny import (
    LLAMA,
    content,
    interrupt_after,
    llama,
    llama_weights,
    logits,
    save,
    stored,
    weights_of,
)
from unmergeable.architectures.layout import Layout
from unmergeable.checkpoint.folder import open_folder
from unmergeable.checkpoint.manifest import Link
from unmergeable.checkpoint.reader import TensorReader
from unmergeable.defences.choices import opened, redrawn
from unmergeable.errors import InputError, KeyFileError, ManifestError, PrecisionError
from unmergeable.gauge.floats import FORMATS
from unmergeable.gauge.tensor_chain import TensorChain
from unmergeable.keys.key import Key
from unmergeable.protection import relock as relocking
from unmergeable.protection.protect import protect, seal_secret, unlock
from unmergeable.protection.recipe import RelockRecipe
from unmergeable.protection.relock import relock

KEY, NEW = Key(bytes(range(32))), Key(bytes(range(1, 33)))


def nothing_was_written(tmp_path) -> bool:
    return not {"out", ".out.partial"} & {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("settings", [{}, {"scales": "true"}, {"spaces": "ffn,vo"}], ids=str)
@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_the_new_key_gives_the_originals_bytes(tmp_path, dtype, settings, shards):
    model = llama(tmp_path / "m", dtype, shards)
    (model / "README.md").write_text("a card")
    protect(model, tmp_path / "locked", KEY, settings=settings)
    report = relock(tmp_path / "locked", tmp_path / "out", KEY, NEW)
    old, new, before = (stored(f) for f in (tmp_path / "locked", tmp_path / "out", model))
    assert sum(old[name] != new[name] for name in old) >= 5
    assert sum(before[name] != new[name] for name in old) >= 5
    assert unmergeable.verify_files(tmp_path / "out", key=NEW).same
    assert unlock(tmp_path / "out", tmp_path / "back", NEW).exact
    assert content(tmp_path / "back") == content(model)
    assert report.manifest.key == NEW.id and not report.edited
    (link,) = report.manifest.chain
    assert link.salt and link.salt not in (tmp_path / "locked" / "unmergeable.json").read_text()
    with pytest.raises(KeyFileError, match=f"protected with the key {NEW.id}"):
        unlock(tmp_path / "out", tmp_path / "x", KEY)


@pytest.mark.parametrize("shards", [1, 5])
@pytest.mark.parametrize("kind", ["lossless", "general"])
def test_experts_find_their_places_across_shards(tmp_path, shards, kind):
    """Tensors change names on both ways, so that three names are at play for each."""
    model = mixtral(tmp_path / "m", shards=shards)
    protect(model, tmp_path / "locked", KEY, settings={"kind": kind})
    relock(tmp_path / "locked", tmp_path / "out", KEY, NEW)
    assert unlock(tmp_path / "out", tmp_path / "back", NEW).exact == (kind == "lossless")
    before, after = weights_of(model), weights_of(tmp_path / "back")
    for name, values in before.items():
        np.testing.assert_allclose(after[name], values, atol=0 if kind == "lossless" else 1e-5)


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
@pytest.mark.parametrize(
    ("defence", "settings"),
    [("lock", {}), ("lock", {"kind": "general"}), ("lock+mergelock", {}), ("mergelock", {})],
    ids=str,
)
def test_it_is_what_unlocking_and_protecting_again_gives(tmp_path, dtype, defence, settings):
    """A line, so that the draw is the same on both ways."""
    how = {"defence": defence, "settings": {**settings, "line": "x"}}
    model = llama(tmp_path / "m", dtype, shards=2)
    protect(model, tmp_path / "locked", KEY, **how)
    new = relock(tmp_path / "locked", tmp_path / "out", KEY, NEW).manifest
    unlock(tmp_path / "locked", tmp_path / "opened", KEY)
    wanted = protect(tmp_path / "opened", tmp_path / "wanted", NEW, **how).manifest
    assert stored(tmp_path / "out") == stored(tmp_path / "wanted")
    assert new.weights == wanted.weights
    found, open_ones = logits(tmp_path / "out"), logits(model)
    assert np.abs(found - open_ones).max() < 0.1 * np.abs(open_ones).max()


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_one_composed_map_would_lose_more(tmp_path, dtype):
    """Rounding to the format of the original, in between, gives most of its numbers back."""
    model = llama(tmp_path / "m", dtype)
    old = protect(model, tmp_path / "locked", KEY, settings={"kind": "general"}).manifest
    new = relock(tmp_path / "locked", tmp_path / "out", KEY, NEW).manifest
    folder, expert = open_folder(tmp_path / "locked"), open_folder(model)
    layout = Layout.of_folder(folder)
    first, then = opened(old.chain, KEY, layout), opened(new.chain, NEW, layout)
    lost = np.zeros(2)
    with TensorReader(folder) as locked, TensorReader(expert) as before, ExitStack() as stack:
        found = stack.enter_context(TensorReader(open_folder(tmp_path / "out")))
        for name, entry in folder.tensors.items():
            back, forth = first.tensor_map(name).inverse, then.tensor_map(name)
            composed = TensorChain.of([back, forth])
            made = composed.apply(locked.read(name), entry.shape, dtype)
            wanted = before.values(name).reshape(-1)
            for way, data in enumerate((made, found.read(name))):
                open_again = forth.inverse.apply(data, entry.shape, dtype)
                gap = FORMATS[dtype].values(open_again) - wanted
                lost[way] += np.square(gap).sum()
    assert lost[1] < 0.85 * lost[0]


CHAINS = [
    ("params", {}),
    ("params+mergelock", {"low": "0.5", "high": "2"}),
    ("params+lock", {"parts": "mlp"}),
    ("lock+params+mergelock", {"kind": "general"}),
]


@pytest.mark.parametrize(("chain", "settings"), CHAINS, ids=str)
def test_a_chain_stays_what_it_was(tmp_path, chain, settings):
    base, tuned = llama(tmp_path / "b"), tmp_path / "m"
    save(tuned, {n: w + 0.02 * llama_weights(1)[n] for n, w in llama_weights().items()}, LLAMA)
    old = protect(
        tuned, tmp_path / "locked", KEY, defence=chain, settings=settings, base=base
    ).manifest
    new = relock(tmp_path / "locked", tmp_path / "out", KEY, NEW).manifest
    for before, after in zip(old.chain, new.chain, strict=True):
        assert replace(after, salt=before.salt, secret=before.secret) == replace(
            before, measured={}
        )
        assert bool(after.secret) == bool(before.secret) and after.salt != before.salt
    assert unlock(tmp_path / "out", tmp_path / "back", NEW).exact == old.lossless
    for name, values in weights_of(tmp_path / "back").items():
        np.testing.assert_allclose(values, weights_of(tuned)[name], atol=2e-5)


def test_a_line_keeps_its_name_and_stays_a_line(tmp_path):
    for seed in (0, 1):
        llama(tmp_path / f"m{seed}", seed=seed)
        protect(tmp_path / f"m{seed}", tmp_path / f"l{seed}", KEY, settings={"line": "chat"})
        report = relock(tmp_path / f"l{seed}", tmp_path / f"r{seed}", KEY, NEW)
        assert report.manifest.chain[0].salt == "line:chat"
    protect(tmp_path / "m0", tmp_path / "wanted", NEW, settings={"line": "chat"})
    assert stored(tmp_path / "r0") == stored(tmp_path / "wanted")


def test_a_mark_stays_and_is_still_found_with_the_key_that_made_it(tmp_path):
    llama(tmp_path / "b")
    base = llama_weights()
    save(tmp_path / "m", {n: w + 0.05 * llama_weights(1)[n] for n, w in base.items()}, LLAMA)
    settings = {"licensee": "alice"}
    protect(
        tmp_path / "m", tmp_path / "locked", KEY, defence="mark+lock", settings=settings,
        base=tmp_path / "b",
    )  # fmt: skip
    report = relock(tmp_path / "locked", tmp_path / "out", KEY, NEW)
    old = unmergeable.inspect(tmp_path / "locked").manifest
    assert old is not None and report.lasting == old.lasting == report.manifest.lasting
    back = unlock(tmp_path / "out", tmp_path / "back", NEW)
    assert back.exact and back.lasting == old.lasting
    unlock(tmp_path / "locked", tmp_path / "wanted", KEY)
    assert stored(tmp_path / "back") == stored(tmp_path / "wanted") != stored(tmp_path / "m")
    where = {"base": tmp_path / "b", "original": tmp_path / "m", "licensees": ["alice"]}
    assert unmergeable.trace(tmp_path / "out", key=KEY, **where).found
    assert not unmergeable.trace(tmp_path / "out", key=NEW, **where).found


def test_parts_of_a_tensor_are_worked_on_apart_only_where_both_locks_keep_its_rows(tmp_path):
    model = open_folder(llama(tmp_path / "m"))
    links = [
        Link("lock", {"kind": "lossless", "spaces": [space], "scales": False}, True, salt="x")
        for space in ("ffn", "residual")
    ]
    by_rows = {
        name: RelockRecipe.of(model, links[:1], links[1:])
        .opened(KEY.secret + NEW.secret)
        .by_rows(e)
        for name, e in model.tensors.items()
        if "layers.1.mlp" in name or "embed" in name
    }
    assert [name.split(".")[-2] for name, may in by_rows.items() if may] == ["embed_tokens"]


def test_a_recipe_can_be_sent_and_holds_no_secret(tmp_path):
    """As other machines get it."""
    links = protect(llama(tmp_path / "m"), tmp_path / "locked", KEY).manifest.chain
    folder = open_folder(tmp_path / "locked")
    sent = pickle.dumps(RelockRecipe.of(folder, links, redrawn(links, KEY, NEW, "x")))
    assert pickle.loads(sent) == RelockRecipe.of(folder, links, redrawn(links, KEY, NEW, "x"))
    assert KEY.secret not in sent and NEW.secret not in sent


# Refused


def test_another_key_and_the_same_key_are_refused(tmp_path):
    protect(llama(tmp_path / "m"), tmp_path / "locked", KEY)
    with pytest.raises(KeyFileError, match=f"protected with the key {KEY.id}, this is {NEW.id}"):
        relock(tmp_path / "locked", tmp_path / "out", NEW, Key(bytes(32)))
    with pytest.raises(KeyFileError, match=f"the new key is the old one, {KEY.id}.*keygen"):
        relock(tmp_path / "locked", tmp_path / "out", KEY, KEY)
    assert nothing_was_written(tmp_path)


def _edit(folder, **changes):
    manifest = unmergeable.inspect(folder).manifest
    assert manifest is not None
    changed = replace(manifest, **changes).sealed(seal_secret(KEY))
    (folder / "unmergeable.json").write_bytes(changed.to_bytes())


def _rebuilt(folder):
    manifest = unmergeable.inspect(folder).manifest
    assert manifest is not None
    last = replace(manifest.chain[0], defence="mergebarrier", lossless=False, lasting=True)
    _edit(folder, chain=(*manifest.chain, last))


def _flipped(folder):
    path = folder / "model.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)


DAMAGED = {
    "an open model": (lambda f: (f / "unmergeable.json").unlink(), "is not protected"),
    "rebuilt at last": (_rebuilt, "changed the architecture, and no key undoes that"),
    "a manifest of old": (lambda f: _edit(f, version=6), "version 6, whose digests"),
    "a bit of the weights": (_flipped, "not the file that was protected"),
    "another original": (
        lambda f: _edit(f, weights={"original": "0" * 64}),
        "gave weights that are not",
    ),
    "another tokenizer": (
        lambda f: (f / "tokenizer.json").write_text("[]"),
        r"files of .* are not those that were locked: tokenizer\.json",
    ),
    "another config": (
        lambda f: (f / "config.json").write_text(json.dumps(LLAMA | {"eos_token_id": 5})),
        "config.json is not the file",
    ),
}


@pytest.mark.parametrize("kind", ["lossless", "general"])
@pytest.mark.parametrize("damage", DAMAGED)
def test_what_is_not_what_was_locked_is_refused(tmp_path, damage, kind):
    model = llama(tmp_path / "m")
    (model / "tokenizer.json").write_text("{}")
    protect(model, tmp_path / "locked", KEY, settings={"kind": kind})
    change, message = DAMAGED[damage]
    change(tmp_path / "locked")
    with pytest.raises(ManifestError, match=message):
        relock(tmp_path / "locked", tmp_path / "out", KEY, NEW)
    assert nothing_was_written(tmp_path)


def test_a_file_that_holds_either_secret_is_refused(tmp_path):
    for name, key in (("old", KEY), ("new", NEW)):
        model = llama(tmp_path / name)
        protect(model, tmp_path / f"{name} locked", KEY)
        (tmp_path / f"{name} locked" / "README.md").write_text(f"mine: {key.secret.hex()}")
        with pytest.raises(InputError, match=r"README\.md holds the secret of the key"):
            relock(tmp_path / f"{name} locked", tmp_path / "out", KEY, NEW)
    assert nothing_was_written(tmp_path)


def test_a_power_of_two_that_the_format_cannot_hold_is_refused(tmp_path):
    """Such a draw is possible where the old key's was not: the format decides, not the old lock."""
    weights = llama_weights(dtype="F16")
    protect(save(tmp_path / "m", weights, LLAMA), tmp_path / "locked", KEY)
    link = unmergeable.inspect(tmp_path / "locked").manifest.chain[0]
    settings = link.settings | {"scales": True}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relocking, "redrawn", lambda links, *keys: [replace(link, settings=settings)])
        with pytest.raises(PrecisionError, match="F16"):
            relock(tmp_path / "locked", tmp_path / "out", KEY, NEW)
    assert nothing_was_written(tmp_path)


# Where it goes, and runs that are killed


def test_to_and_from_addresses(tmp_path):
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    protect(llama(tmp_path / "m", shards=2), tmp_path / "locked", KEY)
    source = upload(tmp_path / "locked", "memory://bucket/locked")
    relock(source, "memory://bucket/out", KEY, NEW, workers=2)
    assert set(at("memory://bucket/out")) == set(content(tmp_path / "locked"))
    assert unlock("memory://bucket/out", tmp_path / "back", NEW).exact
    assert content(tmp_path / "back") == content(tmp_path / "m")


@pytest.mark.parametrize("kind", ["lossless", "general"])
@pytest.mark.parametrize("stop", [10, 30])
def test_a_killed_run_goes_on_and_leaves_nothing_open(tmp_path, stop, kind):
    model = mixtral(tmp_path / "m", shards=5)
    protect(model, tmp_path / "locked", KEY, settings={"kind": kind})
    relock(tmp_path / "locked", tmp_path / "whole", KEY, NEW)
    opened = {data for _, shape, data in stored(model).values() if len(shape) > 1}
    with pytest.raises(KeyboardInterrupt):
        relock(tmp_path / "locked", tmp_path / "out", KEY, NEW, progress=interrupt_after(stop - 1))
    partial = tmp_path / ".out.partial"
    kept = list(partial.glob("*.safetensors"))
    assert len(kept) == {10: 0, 30: 3}[stop]
    for path in tmp_path.rglob("*"):
        if path.is_file() and model not in path.parents:
            assert not any(weights in path.read_bytes() for weights in opened)
    told = []
    relock(tmp_path / "locked", tmp_path / "out", KEY, NEW, progress=told.append)
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert (told[-1].what, told[-1].done) == ("relocking", told[-1].total)
    again = open_folder(tmp_path / "out")
    left = [h for h in again.files if h.path.name not in {path.name for path in kept}]
    assert len(told) == len(kept) + sum(len(header.tensors) for header in left)
    assert not list(tmp_path.glob(".*"))
