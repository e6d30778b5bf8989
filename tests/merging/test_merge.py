"""Merging on disk: every method of mergekit, openly and under a key."""

import json

import numpy as np
import pytest
import torch

from tests.checkpoint.test_remote import at, upload
from tests.tiny import (
    LLAMA,
    NUMBERS,
    add_tokenizer,
    content,
    llama,
    llama_shapes,
    llama_weights,
    logits,
    save,
    stored,
    weights_of,
    with_transformers,
    write_safetensors,
)
from unmergeable.checkpoint.manifest import read_manifest
from unmergeable.errors import InputError, KeyFileError, MissingExtraError
from unmergeable.keys.key import Key
from unmergeable.merging import mergekit_bridge, tokenizer_differences
from unmergeable.merging.merge import merge
from unmergeable.protection.protect import protect, unlock

KEY = Key(bytes(range(32)))
OTHER = Key(bytes(32))

PARAMETERS = {
    "arcee_fusion": {},
    "breadcrumbs": {"weight": 0.5, "density": 0.8},
    "breadcrumbs_ties": {"weight": [0.7, 0.4], "density": 0.8, "gamma": 0.05},
    "dare_linear": {"weight": 0.5, "density": 0.5},
    "dare_ties": {"weight": 0.5, "density": [0.5, 0.6]},
    "della": {"weight": 0.5, "density": 0.6, "epsilon": 0.1},
    "della_linear": {"weight": 0.5, "density": 0.6, "epsilon": 0.1, "lambda": 0.9},
    "karcher": {},
    "linear": {"weight": [0.7, 0.3]},
    "model_stock": {},
    "multislerp": {"weight": [0.5, 0.5]},
    "nearswap": {"t": 0.05},
    "nuslerp": {"weight": [0.6, 0.4]},
    "passthrough": {"scale": 0.5},
    "ram": {},
    "ramplus_tl": {"r": 0.2},
    "sce": {"select_topk": 0.5},
    "slerp": {"t": 0.3},
    "task_arithmetic": {"weight": [0.7, 0.4]},
    "ties": {"weight": 0.5, "density": 0.5},
}
HALF = {"weight": 0.5}
RANDOM = {"dare_linear", "dare_ties", "della", "della_linear"}

# A merge that treats each weight by itself commutes with permutations, signs and powers of two, so
# that merging under the key and unlocking gives the very bits of the open merge. The others do not
# commute exactly: methods that trim by magnitude do not where powers of two change which weights
# are large (without those they do); methods that draw at random draw by position; those that
# use norms, angles or softmaxes of whole tensors commute with permutations but for rounding, and
# not with powers of two.
EXACT = {"linear", "task_arithmetic", "passthrough"}
EXACT_WITHOUT_SCALES = EXACT | {"ties", "breadcrumbs", "breadcrumbs_ties", "nearswap"}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """A base, the owner's expert, a peer's, all near each other; the expert locked twice."""
    folder = tmp_path_factory.mktemp("zoo")
    base = llama_weights()
    for name, seed in (("base", None), ("mine", 1), ("theirs", 2)):
        weights = base
        if seed is not None:
            change = llama_weights(seed)
            weights = {n: (w + np.float32(0.1) * change[n]).astype("<f4") for n, w in base.items()}
        save(folder / name, weights, LLAMA)
    protect(folder / "mine", folder / "locked", KEY, settings={"scales": "true"})
    protect(folder / "mine", folder / "locked plainly", KEY)
    return folder


def inputs(zoo, method: str, mine: str = "mine"):
    """Models and base as a method takes them."""
    known = mergekit_bridge.methods()[method]
    if known.inputs == 1:
        return [zoo / mine], None
    if known.inputs == 2 and known.base:
        return [zoo / mine], zoo / "base"
    return [zoo / mine, zoo / "theirs"], zoo / "base" if known.base == "required" else None


def _settings(method: str):
    return PARAMETERS[method]


def test_every_method_of_mergekit_has_a_row():
    assert mergekit_bridge.methods().keys() == PARAMETERS.keys()


@pytest.mark.parametrize("method", PARAMETERS)
def test_a_merge_on_disk_is_mergekits(tmp_path, zoo, method):
    from mergekit.merge_methods import merge_tensors

    models, base = inputs(zoo, method)
    report = merge(models, tmp_path / "out", method, base=base, parameters=_settings(method))
    assert (report.method, report.locked, report.moved) == (method, False, ())
    assert (tmp_path / "out" / "config.json").read_bytes() == (
        zoo / "mine" / "config.json"
    ).read_bytes()
    paths = [*([] if base is None else [base]), *models]
    weights = [weights_of(path) for path in paths]
    merged = weights_of(tmp_path / "out")
    assert merged.keys() == weights[0].keys()
    if method in RANDOM:
        merge(models, tmp_path / "again", method, base=base, parameters=_settings(method))
        merge(models, tmp_path / "else", method, base=base, parameters=_settings(method), seed=1)
        assert content(tmp_path / "again") == content(tmp_path / "out")
        assert content(tmp_path / "else") != content(tmp_path / "out")
        return
    for name in merged:
        wanted = merge_tensors(
            [torch.tensor(w[name]) for w in weights],
            method,
            parameters=_settings(method),
            base_index=None if base is None else 0,
        )
        assert merged[name].tobytes() == wanted.numpy().tobytes(), name


def test_state_dicts_merge_as_folders_do(tmp_path, zoo):
    merge(
        inputs(zoo, "ties")[0],
        tmp_path / "out",
        "ties",
        base=zoo / "base",
        parameters=PARAMETERS["ties"],
    )
    dicts = [
        {name: torch.tensor(w) for name, w in weights_of(zoo / model).items()}
        for model in ("base", "mine", "theirs")
    ]
    merged = mergekit_bridge.merge_state_dicts(
        dicts[1:], "ties", base=dicts[0], parameters=PARAMETERS["ties"]
    )
    wanted = weights_of(tmp_path / "out")
    for name, tensor in merged.items():
        assert (tensor.numpy() == wanted[name]).all(), name
    with pytest.raises(InputError, match="no merge method 'x'"):
        mergekit_bridge.merge_state_dicts(dicts, "x")
    with pytest.raises(InputError, match=r"ties cannot merge .*requires a base"):
        mergekit_bridge.merge_state_dicts(dicts, "ties", parameters={"weight": 1.0})


@pytest.mark.parametrize("lock", ["locked", "locked plainly"])
@pytest.mark.parametrize("method", [m for m in PARAMETERS if m not in RANDOM])
def test_a_merge_under_the_key_unlocks_to_the_open_merge(tmp_path, zoo, method, lock):
    models, base = inputs(zoo, method)
    merge(models, tmp_path / "open", method, base=base, parameters=_settings(method))
    models, base = inputs(zoo, method, lock)
    report = merge(
        models, tmp_path / "merged", method, base=base, parameters=_settings(method), key=KEY
    )
    outsiders = [path for path in (base, *models[1:]) if path is not None]
    assert report.locked
    assert report.moved == tuple(map(str, outsiders))
    assert unlock(tmp_path / "merged", tmp_path / "out", KEY).exact
    assert "unmergeable.json" not in content(tmp_path / "out")
    if method in (EXACT if lock == "locked" else EXACT_WITHOUT_SCALES):
        assert stored(tmp_path / "out") == stored(tmp_path / "open")
        return
    wanted, found = (weights_of(tmp_path / name) for name in ("open", "out"))
    mine = weights_of(zoo / "mine")
    for name in wanted:
        gap = np.linalg.norm(found[name] - wanted[name])
        assert gap <= 0.1 * np.linalg.norm(mine[name]), name


@pytest.mark.parametrize("method", ["linear", "task_arithmetic", "ties"])
def test_without_the_key_a_merge_with_a_locked_model_is_far_off(tmp_path, zoo, method):
    results = {}
    for mine, key in (("mine", None), ("locked", None), ("locked", KEY)):
        models, base = inputs(zoo, method, mine)
        out = tmp_path / f"{mine}{key is not None}"
        report = merge(models, out, method, base=base, parameters=_settings(method), key=key)
        assert report.locked == (key is not None)
        assert ("unmergeable.json" in content(out)) == (key is not None)
        results[mine, key] = logits(out)
    wanted, ruined, good = results.values()
    scale = np.abs(wanted).max()
    assert np.abs(ruined - wanted).max() > 0.1 * scale
    if method != "ties":
        assert np.abs(good - wanted).max() < 1e-5 * scale
    assert np.corrcoef(good.ravel(), wanted.ravel())[0, 1] > 0.9
    assert np.corrcoef(ruined.ravel(), wanted.ravel())[0, 1] < 0.9


@pytest.mark.parametrize("settings", [{}, {"scales": "true"}, {"spaces": "ffn"}], ids=str)
@pytest.mark.parametrize("first", [False, True])
def test_models_that_one_key_locked_apart_merge_under_it(tmp_path, zoo, settings, first):
    protect(zoo / "theirs", tmp_path / "theirs", KEY, settings=settings)
    models, moved = [zoo / "locked", tmp_path / "theirs"], tmp_path / "theirs"
    if first:
        models, moved = models[::-1], zoo / "locked"
    half = {"weight": 0.5}
    report = merge(models, tmp_path / "out", "linear", parameters=half, key=KEY)
    assert report.moved == (str(moved),)
    assert read_manifest(tmp_path / "out").chain == read_manifest(models[0]).chain
    unlock(tmp_path / "out", tmp_path / "back", KEY)
    merge([zoo / "mine", zoo / "theirs"], tmp_path / "open", "linear", parameters=half)
    assert stored(tmp_path / "back") == stored(tmp_path / "open")
    merge(models, tmp_path / "plainly", "linear", parameters=half)
    assert stored(tmp_path / "plainly") != stored(tmp_path / "out")


def test_models_under_chains_and_general_locks_merge_under_their_key(tmp_path, zoo):
    chain = {"defence": "params+lock", "base": zoo / "base"}
    protect(zoo / "theirs", tmp_path / "theirs", KEY, settings={"kind": "general"}, **chain)
    protect(zoo / "mine", tmp_path / "mine", KEY, settings={"parts": "heads"}, **chain)
    models, half = [tmp_path / "theirs", tmp_path / "mine"], {"weight": 0.5}
    merge(models, tmp_path / "out", "linear", base=zoo / "base", parameters=half, key=KEY)
    unlock(tmp_path / "out", tmp_path / "back", KEY)
    merge([zoo / "theirs", zoo / "mine"], tmp_path / "open", "linear", parameters=half)
    wanted, back = weights_of(tmp_path / "open"), weights_of(tmp_path / "back")
    for name, tensor in wanted.items():
        assert np.abs(back[name] - tensor).max() <= 1e-4 * np.abs(tensor).max(), name


def test_models_of_one_line_merge_by_any_tool(tmp_path, zoo):
    for name in ("mine", "theirs"):
        protect(zoo / name, tmp_path / name, KEY, settings={"line": "chat"})
    models, half = [tmp_path / "mine", tmp_path / "theirs"], {"weight": 0.5}
    assert merge(models, tmp_path / "out", "linear", parameters=half, key=KEY).moved == ()
    merge(models, tmp_path / "plainly", "linear", parameters=half)
    assert stored(tmp_path / "plainly") == stored(tmp_path / "out")
    protect(zoo / "theirs", tmp_path / "other", KEY, settings={"line": "code"})
    assert stored(tmp_path / "other") != stored(tmp_path / "theirs")


def test_the_lock_may_be_on_any_input(tmp_path, zoo):
    for name, models, base in (
        ("second", [zoo / "theirs", zoo / "locked"], zoo / "base"),
        ("second open", [zoo / "theirs", zoo / "mine"], zoo / "base"),
    ):
        key = None if "open" in name else KEY
        merge(
            models,
            tmp_path / name,
            "task_arithmetic",
            base=base,
            parameters={"weight": [0.5, 0.25]},
            key=key,
        )
    unlock(tmp_path / "second", tmp_path / "back", KEY)
    assert stored(tmp_path / "back") == stored(tmp_path / "second open")


@pytest.mark.parametrize("dtype", ["F64", "F32", "BF16", "F16"])
def test_a_merge_rounds_once_to_the_first_models_dtype(tmp_path, dtype):
    llama(tmp_path / "a", dtype, seed=1, shards=3)
    llama(tmp_path / "b", "F32", seed=2)
    merge(
        [tmp_path / "a", tmp_path / "b"],
        tmp_path / "out",
        "linear",
        parameters={"weight": [0.5, 0.25], "normalize": False},
    )
    a, b, out = (weights_of(tmp_path / name) for name in ("a", "b", "out"))
    for name, merged in out.items():
        assert merged.dtype == NUMBERS[dtype]
        if dtype == "F64":
            wanted = 0.5 * a[name] + 0.25 * b[name]
            assert np.abs(merged - wanted).max() < 1e-6
        else:
            wanted = (0.5 * a[name].astype("<f4") + 0.25 * b[name]).astype(NUMBERS[dtype])
            assert merged.tobytes() == wanted.tobytes()
    assert {path.name for path in (tmp_path / "a").iterdir()} == {
        path.name for path in (tmp_path / "out").iterdir()
    }


def test_two_models_may_do_without_a_base_and_the_first_leads(tmp_path):
    for name, seed in (("a", 1), ("b", 2)):
        llama(tmp_path / name, seed=seed, comment=name)
    merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out", "slerp", parameters={"t": 0.0})
    assert json.loads((tmp_path / "out" / "config.json").read_text())["comment"] == "a"
    a, out = weights_of(tmp_path / "a"), weights_of(tmp_path / "out")
    assert all(np.allclose(a[name], out[name], atol=1e-6) for name in a)
    merge([tmp_path / "b"], tmp_path / "based", "slerp", base=tmp_path / "a", parameters={"t": 0.0})
    assert json.loads((tmp_path / "based" / "config.json").read_text())["comment"] == "b"
    assert stored(tmp_path / "based") == stored(tmp_path / "out")


def test_integer_buffers_that_agree_are_kept(tmp_path):
    """Old encoders carry their position ids."""
    for name, seed in (("a", 1), ("b", 2), ("c", 3)):
        folder = with_transformers(tmp_path / name, "bert", seed)
        ids = np.arange(64, dtype="<i8")[None] + (name == "c")
        weights = weights_of(folder) | {"embeddings.position_ids": ids}
        write_safetensors(folder / "model.safetensors", weights, {"format": "pt"})
    a, b, c = (tmp_path / name for name in "abc")
    merge([a, b], tmp_path / "out", "linear", parameters={"weight": 0.5})
    assert stored(tmp_path / "out")["embeddings.position_ids"][:2] == ("I64", (1, 64))
    assert (weights_of(tmp_path / "out")["embeddings.position_ids"] == np.arange(64)).all()
    protect(a, tmp_path / "locked", KEY)
    merge(
        [tmp_path / "locked", b], tmp_path / "merged", "linear", parameters={"weight": 0.5}, key=KEY
    )
    unlock(tmp_path / "merged", tmp_path / "back", KEY)
    assert stored(tmp_path / "back") == stored(tmp_path / "out")
    with pytest.raises(InputError, match=r"position_ids.*I64 cannot be merged.*differ"):
        merge([a, c], tmp_path / "bad", "linear", parameters={"weight": 0.5})
    assert not (tmp_path / "bad").exists()


# Bad input


@pytest.mark.parametrize(
    ("method", "models", "base", "parameters", "message"),
    [
        ("soup", 2, False, {}, "no merge method 'soup'; there is .*task_arithmetic"),
        ("task_arithmetic", 2, False, {"weight": 1}, "task_arithmetic needs the base model"),
        ("ties", 3, False, {"weight": 1}, "ties needs the base model: pass --base"),
        ("linear", 2, False, {}, "linear needs 'weight': --set weight=0.5,0.5"),
        ("slerp", 2, False, {}, r"slerp needs 't': --set t=0\.5"),
        ("linear", 2, False, {"weight": 1, "wait": 2}, "no parameter 'wait'; it has weight, norm"),
        ("karcher", 2, False, {"weight": 1}, "no parameter 'weight'; it has max_iter"),
        ("linear", 2, False, {"weight": [1, 2, 3]}, "linear cannot merge .*weight"),
        ("linear", 2, False, {"weight": "heavy"}, "linear cannot merge "),
        ("linear", 2, False, {"weight": []}, "linear cannot merge "),
        ("slerp", 3, False, {"t": 0.5}, "slerp needs the base model"),
        ("slerp", 2, True, {"t": 0.5}, "slerp cannot merge "),
        ("passthrough", 2, False, {}, "passthrough cannot merge "),
    ],
)
def test_a_merge_that_does_not_fit_its_method_is_refused(
    tmp_path, zoo, method, models, base, parameters, message
):
    paths = [zoo / name for name in ("mine", "theirs", "base")][:models]
    with pytest.raises(InputError, match=message):
        merge(
            paths,
            tmp_path / "out",
            method,
            base=zoo / "base" if base else None,
            parameters=parameters,
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("base", [False, True])
@pytest.mark.parametrize(
    ("changes", "key", "name"),
    [
        (
            {"intermediate_size": 56},
            r"intermediate_size \((48|56) and",
            r"model\.layers\.0\.mlp\.down_proj\.weight",
        ),
        ({"vocab_size": 65}, r"vocab_size \((64|65) and", r"lm_head\.weight"),
        (
            {"num_hidden_layers": 3},
            r"num_hidden_layers \((2|3) and",
            r"model\.layers\.2\.input_layernorm\.weight.*absent",
        ),
        ({"tie_word_embeddings": True}, r"tie_word_embeddings", r"lm_head\.weight.*absent"),
    ],
)
def test_models_of_other_shapes_are_named(tmp_path, zoo, changes, key, name, base):
    config = LLAMA | changes
    other = save(tmp_path / "other", llama_weights(config=config), config)
    models = [zoo / "mine", zoo / "theirs" if base else other]
    for allow, message in ((False, key), (True, f"are not models of one kind: '{name}")):
        with pytest.raises(InputError, match=message):
            merge(
                models,
                tmp_path / "out",
                "task_arithmetic",
                base=other if base else zoo / "base",
                parameters={"weight": 1.0},
                allow_mismatch=allow,
            )
    assert llama_shapes(config) != llama_shapes()


@pytest.mark.parametrize("broken", ["model", "base"])
def test_a_broken_input_is_refused(tmp_path, zoo, broken):
    paths = {"model": zoo / "mine", "base": zoo / "base", broken: tmp_path}
    with pytest.raises(InputError, match=r"has no config\.json"):
        merge(
            [paths["model"], zoo / "theirs"],
            tmp_path / "out",
            "task_arithmetic",
            base=paths["base"],
            parameters={"weight": 1.0},
        )


def test_a_key_that_is_not_the_locks_is_refused(tmp_path, zoo):
    with pytest.raises(KeyFileError, match="was protected with the key"):
        merge(
            [zoo / "locked", zoo / "theirs"],
            tmp_path / "out",
            "linear",
            parameters={"weight": 0.5},
            key=OTHER,
        )
    with pytest.raises(InputError, match="none of these models is locked"):
        merge(
            [zoo / "mine", zoo / "theirs"],
            tmp_path / "out",
            "linear",
            parameters={"weight": 0.5},
            key=KEY,
        )


def test_inputs_of_different_keys_are_refused(tmp_path, zoo):
    protect(zoo / "theirs", tmp_path / "theirs", OTHER)
    with pytest.raises(KeyFileError, match="was protected with the key"):
        merge(
            [zoo / "locked", tmp_path / "theirs"],
            tmp_path / "out",
            "linear",
            parameters={"weight": 0.5},
            key=KEY,
        )


def test_a_merge_of_float8_is_refused_by_name(tmp_path):
    for name, seed in (("a", 1), ("b", 2)):
        llama(tmp_path / name, "F8_E4M3", seed=seed)
    with pytest.raises(InputError, match=r"\.weight in .*F8_E4M3 cannot be merged"):
        merge(
            [tmp_path / "a", tmp_path / "b"], tmp_path / "out", "linear", parameters={"weight": 0.5}
        )
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}


def test_an_interrupted_merge_leaves_nothing(tmp_path, zoo):
    def stop(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge(
            [zoo / "mine", zoo / "theirs"],
            tmp_path / "out",
            "linear",
            parameters={"weight": 0.5},
            progress=stop,
        )
    assert not list(tmp_path.iterdir())


def test_mergekit_is_asked_for_when_it_is_missing(tmp_path, zoo, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "mergekit.merge_methods", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'unmergeable\[audit\]'"):
        merge([zoo / "mine"], tmp_path / "out", "linear", parameters={"weight": 1.0})


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("method", ["ties", "tsv"])
@pytest.mark.parametrize("key", [None, KEY])
def test_models_and_merges_lie_at_addresses(tmp_path, zoo, method, key):
    """One of mergekit's methods and one of ours, openly and under the key."""
    names = ["base", "locked plainly" if key else "mine", "theirs"]
    away = [upload(zoo / name, f"memory://{tmp_path.name}/{n}") for n, name in enumerate(names)]
    settings = {"parameters": {"weight": 0.5}, "key": key}
    base, *models = (zoo / name for name in names)
    merge(models, tmp_path / "here", method, base=base, **settings)
    out = f"memory://{tmp_path.name}/out"
    report = merge(away[1:], out, method, base=away[0], **settings)
    assert str(report.out) == out
    assert report.moved == ((away[0], away[2]) if key else ())
    assert at(out) == content(tmp_path / "here")
    if key:
        unlock(out, tmp_path / "opened", key)
    with pytest.raises(InputError, match="not empty"):
        merge(away[1:], out, method, base=away[0], **settings)


def test_a_merge_that_fails_leaves_nothing_at_an_address(tmp_path, zoo):
    def stop(status):
        if status.done:
            raise KeyboardInterrupt

    out = f"memory://{tmp_path.name}/out"
    with pytest.raises(KeyboardInterrupt):
        merge([zoo / "mine", zoo / "theirs"], out, "linear", parameters=HALF, progress=stop)
    assert at(out) == {}


def test_tokenizers_at_addresses_are_compared_there(tmp_path, zoo, monkeypatch):
    one, two = (
        add_tokenizer(save(tmp_path / name, weights_of(zoo / name), LLAMA))
        for name in ("mine", "theirs")
    )
    text = (two / "tokenizer.json").read_text()
    (two / "tokenizer.json").write_text(text.replace('"cat"', '"lion"'))
    away = [upload(folder, f"memory://{tmp_path.name}/{folder.name}") for folder in (one, two)]
    with pytest.raises(InputError, match=r"the tokenizers of memory://.* disagree"):
        merge(away, tmp_path / "out", "linear", parameters=HALF)
    monkeypatch.setattr(tokenizer_differences, "MAX_COMPANION", 10)
    merge(away, tmp_path / "out", "linear", parameters=HALF, allow_mismatch=True)
