"""Protect and unlock on disk: bit for bit, for every dtype, and nothing written where refused."""

import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import SALT
from tests.tiny import (
    LLAMA,
    NUMBERS,
    content,
    llama,
    llama_weights,
    logits,
    save,
    stored,
    weights_of,
)
from unmergeable.architectures.declaration import supported
from unmergeable.checkpoint.digest import file_digest
from unmergeable.checkpoint.folder import open_folder
from unmergeable.checkpoint.manifest import read_manifest
from unmergeable.checkpoint.plan import Plan
from unmergeable.checkpoint.rewrite import carry_out
from unmergeable.checkpoint.staging import Staging
from unmergeable.errors import (
    InputError,
    KeyFileError,
    ManifestError,
    PrecisionError,
    UnsupportedError,
)
from unmergeable.executors.executor import executor_of
from unmergeable.gauge.tensor_map import TensorMap
from unmergeable.keys.key import Key, keygen
from unmergeable.protection import protect as protection
from unmergeable.protection.protect import protect, seal_secret, unlock
from unmergeable.protection.recipe import LockRecipe

KEY = Key(bytes(range(32)))
OTHER = Key(bytes(32))


def nothing_was_written(tmp_path) -> bool:
    return not {"out", ".out.partial"} & {path.name for path in tmp_path.iterdir()}


# Round trips


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("settings", [{}, {"scales": "false"}, {"spaces": "ffn,vo"}], ids=str)
@pytest.mark.parametrize("dtype", ["F64", "F32", "BF16", "F16", "F8_E4M3"])
def test_unlocking_gives_the_folder_back_bit_for_bit(tmp_path, dtype, settings, shards):
    model = llama(tmp_path / "m", dtype, shards)
    report = protect(model, tmp_path / "locked", KEY, settings=settings)
    before, locked = stored(model), stored(tmp_path / "locked")
    assert {n: v[:2] for n, v in before.items()} == {n: v[:2] for n, v in locked.items()}
    assert sum(before[name] != locked[name] for name in before) >= 7
    back = unlock(tmp_path / "locked", tmp_path / "out", KEY)
    assert back.exact
    assert back.weights == report.manifest.weights["original"]
    assert content(tmp_path / "out") == content(model)


@pytest.mark.parametrize("dtype", ["F64", "F32", "BF16", "F16"])
def test_a_general_lock_comes_back_to_within_rounding(tmp_path, dtype):
    model = llama(tmp_path / "m", dtype, shards=2)
    report = protect(model, tmp_path / "locked", KEY, settings={"kind": "general"})
    assert not report.manifest.lossless
    assert not unlock(tmp_path / "locked", tmp_path / "out", KEY).exact
    unit = {"F64": 2.0**-53, "F32": 2.0**-24, "BF16": 2.0**-8, "F16": 2.0**-11}[dtype]
    before, after = weights_of(model), weights_of(tmp_path / "out")
    for name in before:
        a, b = before[name].astype(float), after[name].astype(float)
        assert np.linalg.norm(a - b) <= 8 * unit * np.linalg.norm(a), name


@pytest.mark.parametrize("scales", [False, True])
@pytest.mark.parametrize("dtype", ["F64", "F32", "BF16", "F16", "F8_E4M3"])
def test_powers_of_two_are_there_where_they_are_asked_for_alone(tmp_path, dtype, scales):
    model = llama(tmp_path / "m", dtype)
    settings = {"scales": "true"} if scales else {}
    if scales and dtype in ("F16", "F8_E4M3"):
        with pytest.raises((PrecisionError, UnsupportedError), match=dtype):
            protect(model, tmp_path / "out", KEY, settings=settings)
        return
    report = protect(model, tmp_path / "out", KEY, settings=settings)
    assert report.manifest.chain[0].settings["scales"] is scales
    before, after = weights_of(model), weights_of(tmp_path / "out")
    name = "model.layers.0.mlp.up_proj.weight"
    a, b = (np.sort(np.abs(w[name].astype(float)), axis=None) for w in (before, after))
    assert (a == b).all() != scales


@pytest.mark.parametrize(
    ("dtype", "settings", "error", "message"),
    [
        (
            "F8_E4M3",
            {"scales": "true"},
            UnsupportedError,
            "dtype F8_E4M3 is too narrow",
        ),
        (
            "F8_E4M3",
            {"kind": "general"},
            UnsupportedError,
            "dtype F8_E4M3 can be moved but",
        ),
        ("I64", {}, UnsupportedError, r"dtype I64 cannot be moved"),
    ],
)
def test_a_dtype_that_cannot_follow_is_refused_by_name(tmp_path, dtype, settings, error, message):
    model = llama(tmp_path / "m", dtype)
    with pytest.raises(error, match=rf"\.weight in model\.safetensors: {message}"):
        protect(model, tmp_path / "out", KEY, settings=settings)
    assert nothing_was_written(tmp_path)


@pytest.mark.parametrize("value", [6e-8, 60000.0], ids=["subnormal", "large"])
def test_a_power_of_two_that_float16_cannot_hold_is_refused(tmp_path, value):
    weights = llama_weights(dtype="F16")
    weights["model.layers.0.mlp.up_proj.weight"][:] = value
    model = save(tmp_path / "m", weights, LLAMA)
    with pytest.raises(PrecisionError, match=r"up_proj\.weight in .*F16"):
        protect(model, tmp_path / "out", KEY, settings={"scales": "true", "line": "x"})
    assert nothing_was_written(tmp_path)
    protect(model, tmp_path / "out", KEY)


def test_a_key_may_be_given_as_its_file(tmp_path):
    key = keygen(tmp_path / "owner.key")
    model = llama(tmp_path / "m")
    protect(model, tmp_path / "locked", tmp_path / "owner.key")
    unlock(tmp_path / "locked", tmp_path / "out", str(tmp_path / "owner.key"))
    assert content(tmp_path / "out") == content(model)
    protect(model, tmp_path / "again", key)
    assert content(tmp_path / "again") == content(tmp_path / "locked")


def test_a_key_gives_the_same_lock_again_and_another_key_another(tmp_path):
    model = llama(tmp_path / "m")
    for name, key in (("a", KEY), ("b", KEY), ("c", OTHER)):
        protect(model, tmp_path / name, key)
    assert content(tmp_path / "a") == content(tmp_path / "b")
    a, c = stored(tmp_path / "a"), stored(tmp_path / "c")
    assert all(a[name] != c[name] for name in a)


def test_shards_do_not_change_the_lock(tmp_path):
    for shards in (1, 4):
        llama(tmp_path / f"m{shards}", shards=shards)
        protect(tmp_path / f"m{shards}", tmp_path / f"out{shards}", KEY, settings={"line": "x"})
    assert stored(tmp_path / "out1") == stored(tmp_path / "out4")


def test_a_locked_model_computes_the_same(tmp_path):
    model = llama(tmp_path / "m")
    wanted = logits(model)
    for settings in ({}, {"kind": "general"}):
        out = tmp_path / str(len(settings))
        protect(model, out, KEY, settings=settings)
        # float64 throughout, except that transformers computes the norms in float32
        assert np.abs(logits(out) - wanted).max() <= 2e-6 * np.abs(wanted).max()


# Narrowed locks

TOUCHED = {
    "ffn": ("mlp.",),
    "vo": ("v_proj", "o_proj"),
    "qk": ("q_proj", "k_proj"),
    "query": ("q_proj", "o_proj"),
    "group": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "residual": ("",),
}


@pytest.mark.parametrize("space", TOUCHED)
def test_a_narrowed_lock_leaves_everything_else_as_it_was(tmp_path, space):
    model = llama(tmp_path / "m", "BF16")
    report = protect(model, tmp_path / "out", KEY, settings={"spaces": space, "line": "x"})
    assert report.manifest.chain[0].settings["spaces"] == [space]
    assert list(report.bits["lock"]) == [space]
    before, after = stored(model), stored(tmp_path / "out")
    changed = {name for name in before if before[name] != after[name]}
    touched = {name for name in before if any(part in name for part in TOUCHED[space])}
    # Of two groups, or two queries, one in two draws moves nothing.
    assert changed == touched if space not in ("group", "query") else set() < changed <= touched


def _with_lora(folder, out):
    """Adds the same update of rank 2 to every attention weight of a model."""
    random = np.random.default_rng(5)
    weights = weights_of(folder)
    for name, weight in weights.items():
        if "self_attn" in name:
            a, b = (random.normal(size=(n, 2)) for n in weight.shape)
            weight += (0.2 * a @ b.T).astype(weight.dtype)
    return save(out, weights, LLAMA)


@pytest.mark.parametrize(("spaces", "fits"), [("ffn", True), ("all", False), ("vo", False)])
def test_an_attention_adapter_fits_a_model_locked_in_its_ffn_alone(tmp_path, spaces, fits):
    model = llama(tmp_path / "m")
    protect(model, tmp_path / "locked", KEY, settings={"spaces": spaces})
    wanted = logits(_with_lora(model, tmp_path / "open tuned"))
    found = logits(_with_lora(tmp_path / "locked", tmp_path / "locked tuned"))
    gap = np.abs(found - wanted).max() / np.abs(wanted).max()
    assert gap < 2e-6 if fits else gap > 0.01
    assert np.abs(wanted - logits(model)).max() > 0.01 * np.abs(wanted).max()


# Settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kin": "general"}, "no setting 'kin'; it has kind, spaces, scales"),
        ({"kind": "strong"}, "kind='strong': choose lossless or general"),
        ({"kind": ""}, "choose lossless or general"),
        ({"spaces": "ffn,attention"}, "'attention': no such space. Movable: .*residual"),
        ({"spaces": ""}, "no such space"),
        ({"spaces": "vocab"}, "'vocab': it is fixed: token ids are the model's interface"),
        ({"spaces": "layer"}, "'layer': it is fixed: the order of the layers"),
        ({"scales": "maybe"}, "scales='maybe': choose true or false"),
    ],
)
def test_a_bad_setting_is_refused(tmp_path, settings, message):
    model = llama(tmp_path / "m")
    with pytest.raises(InputError, match=message):
        protect(model, tmp_path / "out", KEY, settings=settings)
    assert nothing_was_written(tmp_path)


def test_an_unknown_defence_is_refused(tmp_path):
    with pytest.raises(InputError, match="no defence 'wall'; there is lock"):
        protect(llama(tmp_path / "m"), tmp_path / "out", KEY, defence="wall")


def test_a_protected_folder_is_not_protected_again(tmp_path):
    protect(llama(tmp_path / "m"), tmp_path / "locked", KEY)
    with pytest.raises(InputError, match="protected already"):
        protect(tmp_path / "locked", tmp_path / "out", KEY)
    assert nothing_was_written(tmp_path)


# Weights that are not finite


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        *itertools.product(["F32", "BF16", "F16"], [np.nan, np.inf, -np.inf]),
        ("F8_E4M3", np.nan),  # this format has no infinity
    ],
)
@pytest.mark.parametrize("settings", [{}, {"spaces": "vo"}], ids=["moved", "left alone"])
def test_a_weight_that_is_not_finite_is_refused_or_carried_along(tmp_path, dtype, value, settings):
    weights = llama_weights(dtype=dtype)
    weights["model.layers.1.mlp.down_proj.weight"][3, 5] = value
    weights["model.norm.weight"][0] = value
    model = save(tmp_path / "m", weights, LLAMA)
    with pytest.raises(InputError, match=r"(down_proj|norm)\.weight in .*NaN or infinite.*--allow"):
        protect(model, tmp_path / "out", KEY, settings=settings)
    assert nothing_was_written(tmp_path)
    protect(model, tmp_path / "locked", KEY, settings=settings, allow_non_finite=True)
    locked = weights_of(tmp_path / "locked")
    assert sum((~np.isfinite(w.astype(np.float32))).sum() for w in locked.values()) == 2
    unlock(tmp_path / "locked", tmp_path / "out", KEY)
    assert content(tmp_path / "out") == content(model)


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16", "F8_E4M3"])
def test_zeros_subnormals_and_extremes_come_back(tmp_path, dtype):
    weights = llama_weights(dtype=dtype)
    number = NUMBERS[dtype]
    pattern = np.dtype(f"<u{number.itemsize}")
    every = np.arange(256 if number.itemsize == 1 else 1024, dtype=np.int64)
    patterns = (every * ((1 << 8 * number.itemsize) // len(every))).astype(pattern).view(number)
    values = patterns[np.isfinite(patterns.astype(np.float64))]
    target = weights["model.layers.0.mlp.gate_proj.weight"]
    target.reshape(-1)[: len(values)] = values
    weights["model.layers.0.mlp.up_proj.weight"][:4] = [[0.0], [-0.0], [1.0], [-1.0]]
    model = save(tmp_path / "m", weights, LLAMA)
    protect(model, tmp_path / "locked", KEY)
    unlock(tmp_path / "locked", tmp_path / "out", KEY)
    assert content(tmp_path / "out") == content(model)


# Manifests


def test_the_manifest_says_what_was_done_and_nothing_secret(tmp_path):
    model = llama(tmp_path / "m", shards=2)
    report = protect(model, tmp_path / "out", KEY)
    text = (tmp_path / "out" / "unmergeable.json").read_text()
    document = json.loads(text)
    assert document["format"] == "unmergeable-manifest"
    assert document["version"] == 7
    (link,) = document["chain"]
    assert link["defence"] == "lock"
    assert document["key"] == KEY.id
    assert link["lossless"] is True and link["lasting"] is False and link["secret"] == ""
    assert len(bytes.fromhex(link["salt"])) == 16
    assert document["architecture"] == {"family": "Llama", "class": "LlamaForCausalLM"}
    assert link["settings"]["spaces"] == ["residual", "group", "query", "qk", "vo", "ffn"]
    assert document["files"] == {
        name: file_digest(tmp_path / "out" / name)
        for name in content(tmp_path / "out")
        if name != "unmergeable.json"
    }
    assert read_manifest(tmp_path / "out") == report.manifest
    assert KEY.secret.hex() not in text
    assert str(tmp_path) not in text


def _manifest(**changes):
    def change(folder):
        path = folder / "unmergeable.json"
        document = json.loads(path.read_text())
        for name, value in changes.items():
            document.pop(name, None)
            if value is not ...:
                document[name] = value
        path.write_text(json.dumps(document))

    return change


def _link(**changes):
    def change(folder):
        (link,) = json.loads((folder / "unmergeable.json").read_text())["chain"]
        changed = {k: v for k, v in {**link, **changes}.items() if v is not ...}
        _manifest(chain=[changed])(folder)

    return change


def _settings(**changes):
    def change(folder):
        document = json.loads((folder / "unmergeable.json").read_text())
        settings = {**document["chain"][0]["settings"], **changes}
        _link(settings={k: v for k, v in settings.items() if v is not ...})(folder)

    return change


def _text(text):
    return lambda folder: (folder / "unmergeable.json").write_text(text)


def _file(name, place):
    """Flips one bit of a file."""

    def change(folder):
        raw = bytearray((folder / name).read_bytes())
        raw[place] ^= 1
        (folder / name).write_bytes(raw)

    return change


def _hash_of_the_weights(folder):
    document = json.loads((folder / "unmergeable.json").read_text())
    document["files"]["model.safetensors"] = "0" * 64
    _manifest(files=document["files"])(folder)


def _words_of_the_header(folder):
    path = folder / "model.safetensors"
    raw = path.read_bytes()
    assert raw.count(b'"pt"') == 1
    path.write_bytes(raw.replace(b'"pt"', b'"tp"'))


def _other_heads(folder):
    config = json.loads((folder / "config.json").read_text())
    config |= {"num_attention_heads": 8, "num_key_value_heads": 4}
    (folder / "config.json").write_text(json.dumps(config))


SEALED = "its seal does not fit"
DAMAGED = {
    "no manifest": (lambda folder: (folder / "unmergeable.json").unlink(), "has no unmergeable"),
    "a folder": (
        lambda f: ((f / "unmergeable.json").unlink(), (f / "unmergeable.json").mkdir()),
        "damaged",
    ),
    "not JSON": (_text("{"), "is damaged"),
    "nested deeply": (_text("[" * 100_000), "is damaged"),
    "a list": (_text("[]"), "not a manifest of this tool"),
    "another format": (_manifest(format="x"), "not a manifest of this tool"),
    "no format": (_manifest(format=...), "not a manifest of this tool"),
    "a newer version": (_manifest(version=8), "has version 8; this release reads 5 to 7"),
    "an older version": (_manifest(version=4), "has version 4; this release reads 5"),
    "said to be of a version whose digests are not checked": (_manifest(version=6), SEALED),
    "no version": (_manifest(version=...), "has version None"),
    "an unknown field": (_manifest(more=1), "unknown fields .'more'"),
    "another defence": (_link(defence="wall"), SEALED),
    "an unknown field of a link": (_link(more=1), "unknown fields .'more'"),
    "a link of the wrong type": (_manifest(chain=[5]), "is not an object"),
    "an empty chain": (_manifest(chain=[]), "its chain is empty"),
    "training said of the lock": (_link(lasting=True), "no key undoes that"),
    "another secret": (_link(secret="AAAA"), SEALED),
    "other figures": (_link(measured={"x": 1}), SEALED),
    **{
        f"no {name}": (_manifest(**{name: ...}), f"'{name}' is missing or of the wrong type")
        for name in ("chain", "key", "weights", "files", "tool", "seal")
    },
    **{
        f"no {name} of a link": (_link(**{name: ...}), f"'{name}' is missing or of the wrong type")
        for name in ("defence", "settings", "lossless", "lasting", "secret", "measured")
    },
    **{
        f"{name} of the wrong type": (_manifest(**{name: 5}), f"'{name}' is missing or of the w")
        for name in ("chain", "key", "weights", "files", "architecture")
    },
    "an unknown setting": (_settings(more=1), SEALED),
    "spaces of the wrong type": (_settings(spaces=5), SEALED),
    "spaces of lists": (_settings(spaces=[["ffn"]]), SEALED),
    "spaces that no model has": (_settings(spaces=["x"]), SEALED),
    "fewer spaces": (_settings(spaces=["ffn"]), SEALED),
    "no spaces": (_settings(spaces=[]), SEALED),
    "spaces in another order": (_settings(spaces=["ffn", "residual"]), SEALED),
    "spaces not said": (_settings(spaces=...), SEALED),
    "other scales": (_settings(scales=True), SEALED),
    "another salt": (_link(salt="00"), SEALED),
    "another line": (_link(salt="line:x"), SEALED),
    "no salt": (_link(salt=...), SEALED),
    "a salt of the wrong type": (_link(salt=5), "'salt' is missing or of the wrong type"),
    "scales not said": (_settings(scales=...), SEALED),
    "kind of the wrong type": (_settings(kind=["lossless"]), SEALED),
    "another kind": (_settings(kind="general"), SEALED),
    "said to round": (_link(lossless=False), SEALED),
    "another original": (_manifest(weights={"original": "0" * 64}), SEALED),
    "no original": (_manifest(weights={}), SEALED),
    "no files": (_manifest(files={}), SEALED),
    "another hash of the weights": (_hash_of_the_weights, SEALED),
    "a bit of the weights": (_file("model.safetensors", -1), "not the file that was protected"),
    "a header of other words": (_words_of_the_header, "safetensors is not the file that was prot"),
    "a bit of the first weight": (_file("model.safetensors", 4000), "not the file that was prot"),
    "a config of other heads": (_other_heads, "config.json is not the file that was protected"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_protected_folder_is_not_unlocked(tmp_path, damage):
    protect(llama(tmp_path / "m"), tmp_path / "locked", KEY)
    change, message = DAMAGED[damage]
    change(tmp_path / "locked")
    with pytest.raises(ManifestError, match=message):
        unlock(tmp_path / "locked", tmp_path / "out", KEY)
    assert nothing_was_written(tmp_path)


def test_an_unlock_that_goes_wrong_is_not_published(tmp_path, monkeypatch):
    """One bit of one tensor, as a faulty machine would have it; files and key are in order."""
    protect(llama(tmp_path / "m"), tmp_path / "locked", KEY)
    plain = TensorMap.pieces

    def faulty(self, data, shape, dtype, **more):
        for piece in plain(self, data, shape, dtype, **more):
            if shape == (32,):
                piece = piece.copy()
                piece[-1] ^= 1
            yield piece

    monkeypatch.setattr(TensorMap, "pieces", faulty)
    with pytest.raises(ManifestError, match="weights that are not the original's"):
        unlock(tmp_path / "locked", tmp_path / "out", KEY)
    assert nothing_was_written(tmp_path)


@pytest.mark.parametrize("version", [5, 6])
def test_what_earlier_versions_locked_still_unlocks(tmp_path, version):
    """The manifest was written by that version. Its seal is checked, and its digests are not."""
    folder = open_folder(llama(tmp_path / "m", "BF16", shards=2))
    manifest = Path(__file__).with_name(f"manifest_of_version_{version}.json").read_bytes()
    (tmp_path / "unmergeable.json").write_bytes(manifest)
    links = read_manifest(tmp_path).chain
    recipe = LockRecipe.of(folder, links, back=False, allow_non_finite=False)
    with Staging(tmp_path / "locked", None) as staging:
        plan = Plan.of(folder, recipe, staging)
        carry_out(plan, staging, executor_of(1), secret=KEY.secret)
        for name in folder.companions:
            staging.write_file(name, folder.read_companion(name))
        staging.write_file("unmergeable.json", manifest)
        staging.publish()
    report = unlock(tmp_path / "locked", tmp_path / "out", KEY)
    assert not report.checked and not report.exact
    assert stored(tmp_path / "out") == stored(tmp_path / "m")
    for changes in ({"version": 7}, {"weights": {"original": "0" * 64}}):
        _manifest(**changes)(tmp_path / "locked")
        with pytest.raises(ManifestError, match=SEALED):
            unlock(tmp_path / "locked", tmp_path / "again", KEY)
        (tmp_path / "locked" / "unmergeable.json").write_bytes(manifest)


# One key, several models


def _read_without_the_key(base, base_locked, expert_locked) -> dict[str, np.ndarray]:
    """What anyone with the base in both forms reads of an expert, if the lock is the same."""
    opened = {}
    for name, values in base.items():
        order = np.argsort(np.abs(values).ravel(), kind="stable")
        moved = np.argsort(np.abs(base_locked[name]).ravel(), kind="stable")
        signs = np.sign(values.ravel()[order]) * np.sign(base_locked[name].ravel()[moved])
        found = np.empty(values.size, values.dtype)
        found[order] = expert_locked[name].ravel()[moved] * signs
        opened[name] = found.reshape(values.shape)
    return opened


@pytest.mark.parametrize("line", [None, "chat"])
def test_a_lock_is_read_off_the_open_base_in_a_line_alone(tmp_path, line):
    settings = {} if line is None else {"line": line}
    base = llama_weights()
    expert = {n: (w + 0.01 * llama_weights(1)[n]).astype("<f4") for n, w in base.items()}
    for name, weights in (("base", base), ("expert", expert)):
        save(tmp_path / name, weights, LLAMA)
        protect(tmp_path / name, tmp_path / f"{name}-locked", KEY, settings=settings)
    locked = (weights_of(tmp_path / f"{name}-locked") for name in ("base", "expert"))
    read = _read_without_the_key(base, *locked)
    same = [(read[name] == expert[name]).mean() for name in expert]
    assert min(same) > 0.99 if line else max(same) < 0.5


def test_a_salt_is_the_same_for_the_same_work_alone(tmp_path, monkeypatch):
    """So that a run which was killed goes on with the lock that it began with."""
    monkeypatch.setattr(protection, "salt_of", SALT)
    model = llama(tmp_path / "m")
    calls = [
        {"model": model},
        {"model": llama(tmp_path / "copy")},
        {"model": model, "key": OTHER},
        {"model": model, "settings": {"spaces": "ffn"}},
        {"model": model, "settings": {"line": "a"}},
        {"model": model, "settings": {"line": "b"}},
        {"model": model, "defence": "mergelock"},
    ]
    salts = []
    for number, call in enumerate(calls * 2):
        report = protect(out=tmp_path / str(number), **{"key": KEY, **call})
        salts.append(report.manifest.chain[0].salt)
    first, again = salts[: len(calls)], salts[len(calls) :]
    assert first == again
    assert len(set(first)) == len(calls)
    assert first[4:6] == ["line:a", "line:b"]
    (tmp_path / "m" / "model.safetensors").touch()
    assert protect(model, tmp_path / "out", KEY).manifest.chain[0].salt not in first


@pytest.mark.parametrize("line", ["", "x" * 201, 5], ids=str)
def test_a_line_needs_a_name(tmp_path, line):
    with pytest.raises(InputError, match="line: give a name of 1 to 200 characters"):
        protect(llama(tmp_path / "m"), tmp_path / "out", KEY, settings={"line": line})


def test_a_defence_of_a_newer_release_is_named(tmp_path):
    report = protect(llama(tmp_path / "m"), tmp_path / "locked", KEY)
    (link,) = report.manifest.chain
    newer = replace(report.manifest, chain=(replace(link, defence="wall"),))
    newer = newer.sealed(seal_secret(KEY))
    (tmp_path / "locked" / "unmergeable.json").write_bytes(newer.to_bytes())
    with pytest.raises(ManifestError, match="protected with 'wall', which this release does not"):
        unlock(tmp_path / "locked", tmp_path / "out", KEY)


def test_the_settings_of_a_general_lock_cannot_be_changed_unseen(tmp_path):
    """Its result has no hash that would tell."""
    protect(llama(tmp_path / "m"), tmp_path / "locked", KEY, settings={"kind": "general"})
    _settings(spaces=["ffn"])(tmp_path / "locked")
    with pytest.raises(ManifestError, match=SEALED):
        unlock(tmp_path / "locked", tmp_path / "out", KEY)
    assert nothing_was_written(tmp_path)


def test_files_added_after_locking_are_reported(tmp_path):
    protect(llama(tmp_path / "m"), tmp_path / "locked", KEY)
    (tmp_path / "locked" / "NOTES.md").write_text("mine")
    assert unlock(tmp_path / "locked", tmp_path / "out", KEY).left_out == ("NOTES.md",)
    assert not (tmp_path / "out" / "NOTES.md").exists()


@pytest.mark.parametrize("kind", ["lossless", "general"])
def test_another_key_is_refused(tmp_path, kind):
    protect(llama(tmp_path / "m"), tmp_path / "locked", KEY, settings={"kind": kind})
    with pytest.raises(KeyFileError, match=f"protected with the key {KEY.id}, this is {OTHER.id}"):
        unlock(tmp_path / "locked", tmp_path / "out", OTHER)
    assert nothing_was_written(tmp_path)


def test_another_key_under_this_ones_name_is_refused(tmp_path):
    """As if the manifest had been edited so that the wrong key seems right."""
    protect(llama(tmp_path / "m"), tmp_path / "locked", KEY)
    _manifest(key=OTHER.id)(tmp_path / "locked")
    with pytest.raises(ManifestError, match=SEALED):
        unlock(tmp_path / "locked", tmp_path / "out", OTHER)
    assert nothing_was_written(tmp_path)


def test_an_edited_card_travels_through_unlocking(tmp_path):
    model = llama(tmp_path / "m")
    (model / "README.md").write_text("before")
    protect(model, tmp_path / "locked", KEY)
    (tmp_path / "locked" / "README.md").write_text("after")
    unlock(tmp_path / "locked", tmp_path / "out", KEY)
    assert (tmp_path / "out" / "README.md").read_text() == "after"
    assert stored(tmp_path / "out") == stored(model)


# Models that no declaration covers


def _config(**changes):
    return lambda config, weights: (config | changes, weights)


def _more(name, shape):
    return lambda config, weights: (config, weights | {name: np.zeros(shape, "<f4")})


def _less(name):
    return lambda config, weights: (config, {n: w for n, w in weights.items() if n != name})


UNSUPPORTED = {
    "model type": (_config(model_type="mamba"), "model_type 'mamba' is not supported"),
    "model without a proof": (_config(model_type="internlm2"), "'internlm2' is refused: its code"),
    "no model type": (_config(model_type=None), "model_type None is not supported"),
    "class": (_config(architectures=["LlamaForTea"]), "'LlamaForTea' is not declared for Llama"),
    "tensor": (_more("model.layers.1.self_attn.x.weight", (3,)), r"model\.layers\.1\.self_attn\.x"),
    "tensor beside": (_more("extra", (3,)), "'extra' for 'llama'"),
    "tensor with a layer number in another spelling": (
        _more("model.layers.01.input_layernorm.weight", (32,)),
        r"model\.layers\.01",
    ),
}


@pytest.mark.parametrize("change", UNSUPPORTED)
def test_what_nobody_declared_is_refused_with_a_way_on(tmp_path, change):
    edit, message = UNSUPPORTED[change]
    config, weights = edit(LLAMA, llama_weights())
    with pytest.raises(UnsupportedError, match=message) as refused:
        protect(save(tmp_path / "m", weights, config), tmp_path / "out", KEY)
    assert refused.value.exit_code == 3
    assert "docs/architectures.md" in str(refused.value)
    if "type" in change:
        said = re.search(r"Supported: (.+) and (\d+) more", str(refused.value))
        assert len(said[1].split(", ")) + int(said[2]) == len(supported())
        assert set(said[1].split(", ")) <= supported().keys()
    assert nothing_was_written(tmp_path)


AT_ODDS = {
    "width": (_config(hidden_size=64), r"has shape \(64, 32\), but config\.json makes it \(64, 64"),
    "words": (_config(vocab_size=65), r"has shape \(64, 32\), but config\.json makes it \(65, 32"),
    "key-value heads": (_config(num_key_value_heads=4), r"k_proj\.weight has shape \(16, 32\)"),
    "neurons": (_config(intermediate_size=47), "mlp"),
    "dimensions": (_more("model.norm.weight", (32, 1)), r"norm\.weight has shape \(32, 1\)"),
    "fewer layers": (_config(num_hidden_layers=1), r"layers\.1\..*only 1 of 'layer'"),
    "more layers": (_config(num_hidden_layers=3), r"lacks the tensor '(model\.)?layers\.2\.input"),
    "a lost tensor": (_less("model.norm.weight"), r"lacks the tensor '(model\.)?norm\.weight'"),
    "a lost tensor of a layer": (
        _less("model.layers.1.mlp.up_proj.weight"),
        r"lacks the tensor '(model\.)?layers\.1\.mlp\.up_proj\.weight'",
    ),
    "no size": (_config(hidden_size=None), "hidden_size"),
    "a size of zero": (_config(intermediate_size=0), "not a positive number"),
    "a negative size": (_config(intermediate_size=-48), "not a positive number"),
    "a size in words": (_config(num_attention_heads="four"), "num_attention_heads"),
    "heads of zero": (_config(num_attention_heads=0), "num_attention_heads"),
}


@pytest.mark.parametrize("change", AT_ODDS)
def test_weights_at_odds_with_the_config_are_refused(tmp_path, change):
    edit, message = AT_ODDS[change]
    config, weights = edit(LLAMA, llama_weights())
    with pytest.raises(InputError, match=message):
        protect(save(tmp_path / "m", weights, config), tmp_path / "out", KEY)
    assert nothing_was_written(tmp_path)


# Files that say what users read


def test_a_list_of_modules_that_comes_or_goes_does_not_stop_an_unlock(tmp_path):
    """With one, an embedding model keeps its residual stream; what moved, the lock says."""
    model, embedder = llama(tmp_path / "m"), llama(tmp_path / "e")
    (embedder / "modules.json").write_text("[]")
    moved = protect(model, tmp_path / "m-locked", KEY).manifest.chain[0].settings["spaces"]
    kept = protect(embedder, tmp_path / "e-locked", KEY).manifest.chain[0].settings["spaces"]
    assert set(moved) - set(kept) == {"residual"}
    (tmp_path / "m-locked" / "modules.json").write_text("[]")
    (tmp_path / "e-locked" / "modules.json").unlink()
    for name in ("m", "e"):
        report = unlock(tmp_path / f"{name}-locked", tmp_path / f"{name}-back", KEY)
        assert report.exact
        assert report.missing == (("modules.json",) if name == "e" else ())
        assert stored(tmp_path / f"{name}-back") == stored(tmp_path / name)
