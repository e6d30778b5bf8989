"""Experts change places: tensors under other names, in other shards, and all that reads them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.architectures.families import MOE
from tests.architectures.moving import scene
from tests.protection.mixtral import EXPERTS, MIXTRAL, mixtral, mixtral_weights, near
from tests.tiny import interrupt_after, save
from unmergeable.architectures.layout import Layout
from unmergeable.attacks.align import align, align_tensors
from unmergeable.attacks.alignment.methods import METHODS
from unmergeable.attacks.parts import part
from unmergeable.checkpoint import shards
from unmergeable.checkpoint.folder import open_folder
from unmergeable.defences import lock
from unmergeable.defences.chain import Chain
from unmergeable.errors import InputError, UnsupportedError
from unmergeable.keys.key import Key
from unmergeable.merging.merge import merge
from unmergeable.progress import Status
from unmergeable.protection.adapters import protect_adapter, unlock_adapter
from unmergeable.protection.inspect import inspect
from unmergeable.protection.protect import protect, unlock
from unmergeable.verification.verify import verify

KEY = Key(bytes(range(32)))
SHARDS = [1, 5]


def tensors(folder):
    return {k: v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}


def content(folder):
    return {file.name: file.read_bytes() for file in folder.glob("*.safetensors")}


def renamed(chain, names):
    return {name: chain.source(name) for name in names if chain.source(name) != name}


def lock_of(folder, *keys, **settings):
    opened = open_folder(folder)
    layout = Layout.of(opened.config, opened.shapes)
    chosen = lock.LockSettings.resolve(settings, layout)
    return Chain(layout, tuple(lock.gauge(key, chosen) for key in keys))


@pytest.mark.parametrize("shards", SHARDS)
def test_the_space_of_experts_alone_moves_whole_experts_and_the_routers_rows(tmp_path, shards):
    model = mixtral(tmp_path / "model", shards=shards)
    protect(model, tmp_path / "locked", KEY, settings={"spaces": "expert"})
    old, new = tensors(model), tensors(tmp_path / "locked")
    moved = 0
    for layer in range(2):
        prefix = f"model.layers.{layer}.block_sparse_moe."
        router = prefix + "gate.weight"
        order = [
            next(i for i, row in enumerate(old[router]) if (row == wanted).all())
            for wanted in new[router]
        ]
        assert sorted(order) == list(range(EXPERTS))
        moved += order != list(range(EXPERTS))
        for place, source in enumerate(order):
            for name in ("w1", "w2", "w3"):
                one = new[f"{prefix}experts.{place}.{name}.weight"]
                assert (one == old[f"{prefix}experts.{source}.{name}.weight"]).all()
    assert moved
    still = [name for name in old if "block_sparse_moe" not in name]
    assert all((old[name] == new[name]).all() for name in still)


@pytest.mark.parametrize("kind", ["lossless", "general"])
@pytest.mark.parametrize("shards", SHARDS)
def test_unlocking_and_verifying_find_every_expert_again(tmp_path, shards, kind):
    model = mixtral(tmp_path / "model", shards=shards)
    protect(model, tmp_path / "locked", KEY, settings={"kind": kind})
    report = unlock(tmp_path / "locked", tmp_path / "again", KEY)
    lossless = kind == "lossless"
    assert report.exact == lossless
    assert (content(tmp_path / "again") == content(model)) == lossless
    compared = verify(model, tmp_path / "locked", key=KEY).weights
    assert compared is not None
    assert compared.same
    assert (compared.identical == compared.tensors) == lossless
    for name, tensor in tensors(model).items():
        np.testing.assert_allclose(tensors(tmp_path / "again")[name], tensor, atol=1e-5)


def test_experts_come_from_other_shards(tmp_path):
    """Else the tests of sharded folders above would show nothing."""
    model = mixtral(tmp_path / "model", shards=5)
    where = json.loads((model / "model.safetensors.index.json").read_text())["weight_map"]
    pairs = renamed(lock_of(model, KEY), where).items()
    assert len(pairs) >= 6
    assert any(where[name] != where[source] for name, source in pairs)


@pytest.mark.parametrize("step", ["protect", "unlock"])
@pytest.mark.parametrize("stop", [12, 25, 38])
def test_a_killed_run_goes_on_to_the_same_files(tmp_path, step, stop):
    model, want = mixtral(tmp_path / "model", shards=5), {}
    protect(model, tmp_path / "locked", KEY)
    want["protect"] = content(tmp_path / "locked")
    want["unlock"] = content(model)
    run, source = (protect, model) if step == "protect" else (unlock, tmp_path / "locked")
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "out", KEY, workers=1, progress=interrupt_after(stop - 1))
    assert not (tmp_path / "out").exists()
    done: list[Status] = []
    report = run(source, tmp_path / "out", KEY, progress=done.append)
    assert len(done) < len(mixtral_weights())  # finished shards were not made again
    assert content(tmp_path / "out") == want[step]
    if step == "protect":
        assert unlock(tmp_path / "out", tmp_path / "again", KEY).exact
    else:
        assert report.exact


def test_two_locks_one_after_the_other_are_one_chain(tmp_path):
    model = mixtral(tmp_path / "model")
    both = lock_of(model, KEY, Key(bytes(range(1, 33))))
    one, two = (Chain(both.layout, (gauge,)) for gauge in both.gauges)
    old = {name: w.astype(np.float64) for name, w in tensors(model).items()}

    def applied(chain, state):
        return {
            name: chain.tensor_map(chain.source(name))(state[chain.source(name)]) for name in state
        }

    want = applied(two, applied(one, old))
    found = applied(both, old)
    assert renamed(both, old).keys() - renamed(one, old).keys() or renamed(two, old)
    for name in old:
        np.testing.assert_array_equal(found[name], want[name])
        assert both.destination(both.source(name)) == name
        back = both.tensor_map(name).inverse
        data = found[both.destination(name)].reshape(-1).view(np.uint8)
        again = back.apply(data, old[name].shape, "F64")
        np.testing.assert_array_equal(again.view(np.float64).reshape(old[name].shape), old[name])


@pytest.mark.parametrize("first", ["locked", "peer"])
def test_a_merge_under_the_key_unlocks_to_the_open_merge(tmp_path, first):
    weights = mixtral_weights()
    for seed, name in ((1, "expert"), (2, "peer")):
        save(tmp_path / name, near(weights, seed), MIXTRAL, shards=3)
    protect(tmp_path / "expert", tmp_path / "locked", KEY)
    inputs = [tmp_path / "locked", tmp_path / "peer"]
    settings = {"parameters": {"weight": [0.25, 0.75]}}
    if first == "peer":
        inputs, settings = inputs[::-1], {"parameters": {"weight": [0.75, 0.25]}}
    merge(inputs, tmp_path / "merged", "linear", key=KEY, **settings)
    assert unlock(tmp_path / "merged", tmp_path / "opened", KEY).exact
    opened = [tmp_path / ("expert" if path.name == "locked" else "peer") for path in inputs]
    merge(opened, tmp_path / "want", "linear", **settings)
    want, found = tensors(tmp_path / "want"), tensors(tmp_path / "opened")
    for name in want:
        np.testing.assert_allclose(found[name], want[name], atol=1e-6)


@pytest.mark.parametrize("shards", SHARDS)
def test_alignment_undoes_a_lossless_lock_to_the_bit(tmp_path, shards):
    weights = mixtral_weights()
    save(tmp_path / "base", weights, MIXTRAL)
    save(tmp_path / "expert", near(weights, 1), MIXTRAL, shards)
    protect(tmp_path / "expert", tmp_path / "locked", KEY)
    report = align(tmp_path / "locked", tmp_path / "aligned", tmp_path / "base")
    assert content(tmp_path / "aligned") == content(tmp_path / "expert")
    gap, whole = (
        sum(float(((w - v) ** 2).sum()) for w, v in zip(weights.values(), other, strict=True))
        for other in (
            [tensors(tmp_path / "locked")[name] for name in weights],
            [0 * w for w in weights.values()],
        )
    )
    assert report.before == pytest.approx((gap / whole) ** 0.5, rel=1e-5)
    assert report.after < 0.03
    folders = [open_folder(tmp_path / name) for name in ("locked", "base")]
    memory = align_tensors(*folders)
    assert memory.before == pytest.approx(report.before, rel=1e-6)
    for name, tensor in tensors(tmp_path / "expert").items():
        assert (memory.tensors[name] == tensor.reshape(-1).view(np.uint8)).all()


@pytest.mark.parametrize("method", METHODS)
def test_every_method_of_alignment_finds_the_experts(tmp_path, method):
    weights = mixtral_weights()
    save(tmp_path / "base", weights, MIXTRAL)
    save(tmp_path / "expert", near(weights, 1, 1e-4), MIXTRAL)
    settings = {"spaces": "expert"}
    protect(tmp_path / "expert", tmp_path / "locked", KEY, settings=settings)
    report = align(tmp_path / "locked", tmp_path / "aligned", tmp_path / "base", method=method)
    assert report.after < report.before
    old, new = tensors(tmp_path / "expert"), tensors(tmp_path / "aligned")
    for name in old:
        if name.endswith("block_sparse_moe.gate.weight"):
            np.testing.assert_allclose(new[name], old[name], atol=1e-2)


@pytest.mark.parametrize("name", ["qwen3-moe", "olmoe", "deepseek-v3", "llama4", "gpt-oss"])
@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_of_alignment_reads_every_kind_of_attention(tmp_path, name, method):
    family = next(family for family in MOE if family.name == name)
    family.build().save_pretrained(tmp_path / "model")
    protect(tmp_path / "model", tmp_path / "locked", KEY, settings={"spaces": "qk,vo"})
    folders = [tmp_path / name for name in ("locked", "aligned", "model")]
    if method == "aga-full" and name == "deepseek-v3":
        with pytest.raises(UnsupportedError, match="aga-full cannot"):
            align(*folders, method=method)
        return
    report = align(*folders, method=method)
    assert report.after < report.before


def test_experts_that_are_stored_differently_do_not_change_places(tmp_path):
    weights = mixtral_weights()
    prefix = "model.layers.0.block_sparse_moe.experts."
    for name in weights:
        if name.startswith(prefix + "1."):
            weights[name] = weights[name].astype(np.float64)
    model = save(tmp_path / "model", weights, MIXTRAL)
    with pytest.raises(InputError, match="cannot change places"):
        protect(model, tmp_path / "locked", KEY)
    protect(model, tmp_path / "locked", KEY, settings={"spaces": "residual,ffn"})
    assert unlock(tmp_path / "locked", tmp_path / "again", KEY).exact


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda w, name: w.pop(name), "lacks the tensor .*experts.2.w1.weight"),
        (lambda w, name: w.update({name[6:]: w[name]}), "two spellings of one tensor"),
        (lambda w, name: w.update({name.replace("2.w1", "4.w1"): w[name]}), "only 4 of 'expert'"),
        (lambda w, name: w.update({name.replace("2.w1", "2.w4"): w[name]}), "nobody has declared"),
    ],
)
def test_experts_that_are_not_all_there_are_named(tmp_path, change, words):
    weights = mixtral_weights()
    change(weights, "model.layers.1.block_sparse_moe.experts.2.w1.weight")
    model = save(tmp_path / "model", weights, MIXTRAL)
    with pytest.raises(Exception, match=words):
        protect(model, tmp_path / "locked", KEY)
    assert not (tmp_path / "locked").exists()


@pytest.mark.parametrize("family", MOE, ids=lambda family: family.name)
def test_attacks_tell_attention_from_experts(family, tmp_path):
    family.build().save_pretrained(tmp_path / "model")
    opened = open_folder(tmp_path / "model")
    layout = Layout.of(opened.config, opened.shapes)
    for name, placement in layout.placements.items():
        if "layer" in placement.index and len(placement.rule.axes) > 1:
            assert part(layout, name) == ("attention" if "self_attn" in name else "FFN"), name


def test_the_secret_of_a_model_counts_the_experts_it_has(tmp_path):
    report = inspect(mixtral(tmp_path / "model"))
    kinds = {kind.name: kind.count for kind in report.tensors}
    prefix = "model.layers.{layer}.block_sparse_moe."
    assert kinds[prefix + "experts.{expert}.w1.weight"] == 2 * EXPERTS
    assert kinds[prefix + "gate.weight"] == 2
    spaces = {space.name: space for space in report.spaces}
    assert spaces["expert"].instances == 2
    assert spaces["ffn"].instances == 2 * EXPERTS
    assert spaces["expert"].bits == pytest.approx(2 * np.log2(24))


def test_the_budget_counts_what_an_unlocked_expert_needs(tmp_path, monkeypatch):
    """A budget below one tensor still lets every tensor through, one after the other."""
    monkeypatch.setattr(shards, "BUDGET", 0)
    model = mixtral(tmp_path / "model", shards=5)
    protect(model, tmp_path / "locked", KEY)
    assert unlock(tmp_path / "locked", tmp_path / "again", KEY).exact


PREFIX, RANK = "model.layers.{}.block_sparse_moe.", 2


def expert_adapter(folder, modules, seed=3):
    """A LoRA folder for these modules, as PEFT saves it, and what it adds to their weights."""
    random, shapes = np.random.default_rng(seed), mixtral_weights()
    state, added = {}, {}
    for module in modules:
        rows, columns = shapes[f"{module}.weight"].shape
        a, b = (random.normal(size=s).astype(np.float32) for s in ((RANK, columns), (rows, RANK)))
        state[f"base_model.model.{module}.lora_A.weight"] = a
        state[f"base_model.model.{module}.lora_B.weight"] = b
        added[f"{module}.weight"] = 2 * b.astype(np.float64) @ a
    folder.mkdir()
    save_file(state, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return added


def increments(folder):
    state = load_file(folder / "adapter_model.safetensors")
    return {
        name.removeprefix("base_model.model.").replace("lora_A.", ""): 2
        * state[name.replace("lora_A", "lora_B")].astype(np.float64)
        @ a
        for name, a in state.items()
        if "lora_A" in name
    }


def experts_of(layer):
    prefix = PREFIX.format(layer)
    return [f"{prefix}experts.{e}.{w}" for e in range(EXPERTS) for w in ("w1", "w2", "w3")]


@pytest.mark.parametrize("kind", ["lossless", "general"])
def test_an_adapter_of_experts_goes_where_they_go_and_comes_back(tmp_path, kind):
    model = mixtral(tmp_path / "model")
    protect(model, tmp_path / "locked", KEY, settings={"kind": kind, "line": "x"})
    modules = [*experts_of(0), PREFIX.format(1) + "gate"]
    added = expert_adapter(tmp_path / "adapter", modules)
    protect_adapter(tmp_path / "adapter", tmp_path / "carried", KEY, tmp_path / "locked")
    chain = lock_of(model, KEY.salted("line:x"), kind=kind)
    found = increments(tmp_path / "carried")
    assert found.keys() == added.keys()
    assert any(chain.source(name) != name for name in found)
    for name, increment in found.items():
        source = chain.source(name)
        np.testing.assert_allclose(increment, chain.tensor_map(source)(added[source]), atol=1e-4)
    report = unlock_adapter(tmp_path / "carried", tmp_path / "back", KEY, tmp_path / "locked")
    assert report.exact == (kind == "lossless")
    for name, increment in increments(tmp_path / "back").items():
        np.testing.assert_allclose(increment, added[name], atol=1e-4)


def test_an_adapter_of_some_experts_alone_is_refused(tmp_path):
    model = mixtral(tmp_path / "model")
    protect(model, tmp_path / "locked", KEY)
    modules = experts_of(0)
    (name, _), *_ = renamed(lock_of(model, KEY), [f"{module}.weight" for module in modules]).items()
    expert_adapter(tmp_path / "adapter", [name.removesuffix(".weight")])
    with pytest.raises(UnsupportedError, match=r"w[1-3]\..*Adapt all experts"):
        protect_adapter(tmp_path / "adapter", tmp_path / "carried", KEY, tmp_path / "locked")


def _of_stack(family, ending, folder):
    """A model of that family, locked, and the name and the content of a stack of experts."""
    next(one for one in MOE if one.name == family).build().save_pretrained(folder / "model")
    protect(folder / "model", folder / "locked", KEY)
    name = next(name for name in tensors(folder / "model") if name.endswith(ending))
    (folder / "adapter").mkdir()
    (folder / "adapter/adapter_config.json").write_text('{"peft_type": "LORA", "r": 2}')
    return name, tensors(folder / "model")[name]


def test_a_stack_of_experts_that_an_adapter_brings_whole_moves_as_the_model_s(tmp_path):
    name, whole = _of_stack("llama4", "experts.down_proj", tmp_path)
    save_file({f"base_model.model.{name}": whole}, tmp_path / "adapter/adapter_model.safetensors")
    protect_adapter(tmp_path / "adapter", tmp_path / "carried", KEY, tmp_path / "locked")
    carried = load_file(tmp_path / "carried/adapter_model.safetensors")
    wanted = tensors(tmp_path / "locked")[name]
    np.testing.assert_array_equal(carried[f"base_model.model.{name}"], wanted)
    assert (wanted != whole).any()


def test_an_adapter_of_a_stack_of_experts_is_refused(tmp_path):
    name, whole = _of_stack("granitemoe", "input_linear.weight", tmp_path)
    experts, rows, columns = whole.shape
    factors = {"A": (2, rows, columns), "B": (experts, 2, 1)}
    start = f"base_model.model.{name.removesuffix('.weight')}"
    save_file(
        {f"{start}.lora_{x}.weight": np.ones(s, np.float32) for x, s in factors.items()},
        tmp_path / "adapter/adapter_model.safetensors",
    )
    with pytest.raises(UnsupportedError, match="stack of experts"):
        protect_adapter(tmp_path / "adapter", tmp_path / "carried", KEY, tmp_path / "locked")


@pytest.mark.parametrize("name", ["mixtral", "llama", "dinov2-classifier"])
def test_every_spelling_of_a_tensor_finds_the_stored_one(name):
    """Names on disk and in memory, with the trunk's prefix and without it."""
    layout = scene(name).layout
    for stored, placement in layout.placements.items():
        rule = placement.rule
        for template in range(len(rule.templates)):
            other = replace(rule, templates=rule.templates[template:])
            bare = other.name(placement.index, layout.spaces)
            for spelled in (stored, bare, rule.prefix + bare):
                assert layout.stored_name(spelled) == stored
    assert layout.stored_name("nobody.knows.weight") is None
    assert layout.stored_name("model.layers.9.input_layernorm.weight") is None
