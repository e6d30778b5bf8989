"""Adapters whose tensors do not fit the model are refused, and those of another lock, too."""

import json
import random

import numpy as np
import pytest

from tests.tiny import llama, lora, weights_of, write_safetensors
from unmergeable.checkpoint.folder import MANIFEST
from unmergeable.checkpoint.manifest import read_manifest
from unmergeable.cli import main
from unmergeable.errors import InputError, ManifestError, UnmergeableError
from unmergeable.keys.key import Key, keygen
from unmergeable.protection.adapters import protect_adapter, unlock_adapter
from unmergeable.protection.protect import protect

KEY = Key(bytes(range(32)))
LAYER = "model.layers.0.self_attn.q_proj"
A, B = (f"base_model.model.{LAYER}.lora_{x}.weight" for x in "AB")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A model, locked in both ways; another, locked with the same key; an adapter, carried."""
    folder = tmp_path_factory.mktemp("world")
    protect(llama(folder / "open"), folder / "locked", KEY)
    protect(folder / "open", folder / "general", KEY, settings={"kind": "general"})
    protect(llama(folder / "second", seed=1), folder / "second-locked", KEY)
    protect_adapter(lora(folder / "adapter"), folder / "carried", KEY, folder / "locked")
    return folder


def changed(folder, tensors, **config):
    lora(folder)
    write_safetensors(folder / "adapter_model.safetensors", tensors)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return folder


def ones(*shape, dtype="<f4"):
    return np.ones(shape, dtype)


WRONG = {
    "A wider": {A: ones(2, 33), B: ones(32, 2)},
    "A narrower": {A: ones(2, 8), B: ones(32, 2)},
    "A turned": {A: ones(32, 2), B: ones(32, 2)},
    "A of one axis": {A: ones(64), B: ones(32, 2)},
    "A of three axes": {A: ones(2, 32, 1), B: ones(32, 2)},
    "A empty": {A: ones(2, 0), B: ones(32, 2)},
    "A a number": {A: ones(), B: ones(32, 2)},
    "B longer": {A: ones(2, 32), B: ones(64, 2)},
    "B of another rank": {A: ones(2, 32), B: ones(32, 3)},
    "both of another rank than the config's": {A: ones(3, 32), B: ones(32, 3)},
    "a magnitude of a wrong length": {
        A: ones(2, 32), B: ones(32, 2),
        f"base_model.model.{LAYER}.lora_magnitude_vector": ones(31),
    },
    "a bias of a wrong length": {
        A: ones(2, 32), B: ones(32, 2), f"base_model.model.{LAYER}.lora_B.bias": ones(33)
    },
    "a whole tensor of another shape": {"base_model.model.model.norm.weight": ones(31)},
    "rows of a table of another width": {
        "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta": ones(3, 31)
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", ["locked", "general"])
@pytest.mark.parametrize("tensors", WRONG.values(), ids=list(WRONG))
def test_a_wrong_shape_is_refused_by_both_shapes(world, tmp_path, tensors, kind):
    changed(tmp_path / "adapter", tensors)
    for carry in (protect_adapter, unlock_adapter):
        with pytest.raises(InputError, match=r"has shape \(.*") as caught:
            carry(tmp_path / "adapter", tmp_path / "out", KEY, world / kind)
        assert any(name in str(caught.value) for name in tensors)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("tensors", "config", "words"),
    [
        ({A: ones(2, 32)}, {}, "no lora_B"),
        (
            {A: ones(2, 32), B: ones(32, 2)},
            {"auto_mapping": {"base_model_class": "LlamaForEverything"}},
            "'LlamaForEverything'.*not declared",
        ),
        ({B: ones(32, 2)}, {}, "no lora_A"),
        ({A: ones(2, 32), B: ones(32, 2)}, {"use_dora": True}, "no lora_magnitude_vector"),
        ({A: ones(2, 32), B: ones(32, 2)}, {"lora_bias": True}, "no lora_B.bias"),
        ({"x" * 5000: ones(2)}, {}, "has 5,000 characters"),
        (
            {A.replace("layers.0", "layers.2"): ones(2, 32)},
            {},
            "has no tensor|config.json has only",
        ),
        (
            {A.replace("layers.0", "layers." + "9" * 150): ones(2, 32)},
            {},
            "Is this an adapter|only",
        ),
        ({"base_model.model.score.weight": ones(2, 32)}, {}, "has no tensor 'score.weight'"),
        (
            {"base_model.model.head.weight": ones(2, 32)},
            {"task_type": "SEQ_CLS"},
            "a head of its own",
        ),
        (
            {
                "base_model.model.model.norm.weight": ones(32),
                "base_model.model.norm.weight": ones(32),
            },
            {},
            "two spellings",
        ),
        ({A: ones(2, 32, dtype="<i8"), B: ones(32, 2)}, {}, "dtype I64"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_belong_is_refused_in_a_sentence(world, tmp_path, tensors, config, words):
    changed(tmp_path / "adapter", tensors, **config)
    with pytest.raises(UnmergeableError, match=words) as caught:
        protect_adapter(tmp_path / "adapter", tmp_path / "out", KEY, world / "locked")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1200


def test_adapters_changed_at_random_are_carried_or_refused_in_a_sentence(world, tmp_path):
    choose, counts = random.Random(0), [0, 0]
    sizes = [0, 1, 2, 3, 16, 31, 32, 33, 64, 128]
    modules = [LAYER, LAYER.replace("q_proj", "v_proj"), "model.embed_tokens", "model.norm", "x"]
    modules += ["lm_head", "model.layers.1.mlp.down_proj", "model.layers.9.mlp.up_proj"]
    parts = ["lora_A.weight", "lora_B.weight", "lora_embedding_A", "lora_embedding_B", "weight"]
    parts += ["lora_magnitude_vector", "lora_B.bias", "token_adapter.trainable_tokens_delta"]
    shapes = {"q_proj": (32, 32), "v_proj": (16, 32), "down_proj": (32, 48)}
    shapes |= dict.fromkeys(["lm_head", "embed_tokens"], (64, 32))
    for turn in range(300):
        tensors = {}
        for _ in range(choose.randint(1, 3)):
            module = choose.choice(modules)
            out, into = shapes.get(module.rpartition(".")[2], (32, 32))
            pair = {"lora_A.weight": (2, into), "lora_B.weight": (out, 2)}
            tensors |= {f"base_model.model.{module}.{part}": ones(*s) for part, s in pair.items()}
        for _ in range(choose.randint(0, 2)):
            name = f"base_model.model.{choose.choice(modules)}.{choose.choice(parts)}"
            shape = choose.choices(sizes, k=choose.randint(0, 3))
            tensors[name] = ones(*shape, dtype=choose.choice(["<f4", "<f2", "<i8"]))
        changed(tmp_path / f"adapter{turn}", tensors)
        locked = world / choose.choice(["locked", "general"])
        try:
            protect_adapter(tmp_path / f"adapter{turn}", tmp_path / f"out{turn}", KEY, locked)
            counts[0] += 1
        except UnmergeableError as error:
            assert "\n" not in str(error)
            assert len(str(error)) < 1200
            counts[1] += 1
    assert min(counts) > 15


def test_a_carried_adapter_fits_the_lock_it_was_made_for_alone(world, tmp_path):
    with pytest.raises(ManifestError, match="not of an adapter for"):
        unlock_adapter(world / "carried", tmp_path / "out", KEY, world / "second-locked")
    assert not (tmp_path / "out").exists()
    manifest = read_manifest(world / "carried")
    assert manifest.weights["model"] == read_manifest(world / "locked").weights["original"]
    assert unlock_adapter(world / "carried", tmp_path / "out", KEY, world / "locked").exact


def test_nan_is_carried_where_it_is_asked_for(world, tmp_path):
    tensors = {
        A: ones(2, 32),
        B: ones(32, 2),
        f"base_model.model.{LAYER}.lora_magnitude_vector": ones(32),
    }
    tensors[A][0, 0] = np.nan
    tensors[f"base_model.model.{LAYER}.lora_magnitude_vector"][3] = np.inf
    changed(tmp_path / "adapter", tensors, use_dora=True)
    with pytest.raises(InputError, match="--allow-non-finite"):
        protect_adapter(tmp_path / "adapter", tmp_path / "out", KEY, world / "locked")
    protect_adapter(
        tmp_path / "adapter", tmp_path / "out", KEY, world / "locked", allow_non_finite=True
    )
    unlock_adapter(tmp_path / "out", tmp_path / "back", KEY, world / "locked")
    again = weights_of(tmp_path / "back")
    for name, wanted in tensors.items():
        np.testing.assert_array_equal(again[name], wanted)


def test_the_command_carries_nan_and_says_which_model_is_named(tmp_path, capfd):
    keygen(tmp_path / "k")
    protect(llama(tmp_path / "open"), tmp_path / "locked", tmp_path / "k")
    tensors = {A: ones(2, 32), B: ones(32, 2)}
    tensors[A][0, 0] = np.nan
    changed(tmp_path / "adapter", tensors, base_model_name_or_path=str(tmp_path / "open"))
    words = [str(tmp_path / "adapter"), str(tmp_path / "out"), "--key", str(tmp_path / "k")]
    words += ["--model", str(tmp_path / "locked")]
    for flags, code in (([], 2), (["--allow-non-finite"], 0)):
        assert main(["protect", *words, *flags]) == code
    said = capfd.readouterr().err
    assert "now names none: set base_model_name_or_path" in said
    assert "adapter_config.json" in said
    text = (tmp_path / "out" / "adapter_config.json").read_text()
    assert json.loads(text)["base_model_name_or_path"] is None
    assert str(tmp_path) not in text + (tmp_path / "out" / MANIFEST).read_text()


def test_an_adapter_in_a_pickle_is_refused(world, tmp_path):
    lora(tmp_path / "adapter")
    (tmp_path / "adapter/adapter_model.safetensors").rename(tmp_path / "adapter/adapter_model.bin")
    with pytest.raises(InputError, match="Adapters in pickles are not read"):
        protect_adapter(tmp_path / "adapter", tmp_path / "out", KEY, world / "locked")
