"""An adapter that was carried along runs on the locked model as it did on the open one."""

import json

import numpy as np
import peft
import pytest
import torch
import transformers
from blake3 import blake3
from safetensors.numpy import load_file

from tests.architectures.families import FAMILIES, outputs
from tests.tiny import content, hashes_of
from unmergeable.checkpoint.adapter_folder import open_adapter
from unmergeable.checkpoint.digest import file_digest, weights_digest
from unmergeable.checkpoint.manifest import read_manifest
from unmergeable.errors import InputError, KeyFileError, ManifestError, UnsupportedError
from unmergeable.keys.key import Key
from unmergeable.protection.adapters import protect_adapter, unlock_adapter
from unmergeable.protection.protect import protect

KEY, OTHER = Key(bytes(range(32))), Key(bytes(32))
ROWS = {family.name: family for family in FAMILIES}
LINEAR = {
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    "llama-tied": ["q_proj", "v_proj", "embed_tokens"],
    "qwen2": ["k_proj", "o_proj", "up_proj"],
    "gpt2": ["c_attn", "c_proj", "c_fc"],
    "bert-classifier": ["query", "key", "value", "dense"],
    "vit-classifier": ["q_proj", "v_proj", "fc1", "fc2"],
    # Both towers and what stands between them.
    "llava": ["q_proj", "v_proj", "fc1", "down_proj", "linear_1", "linear_2"],
    "qwen2-vl": ["qkv", "proj", "o_proj", "mlp.0", "mlp.2"],
}


def adapter(family, folder, **changes):
    """The open model with a random adapter, both saved; B is not zero."""
    model = family.build()
    model.save_pretrained(folder / "open")
    settings = {"r": 3, "lora_alpha": 5, "target_modules": LINEAR[family.name], **changes}
    adapted = peft.get_peft_model(model, peft.LoraConfig(**settings))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_magnitude" in name:
                weight.mul_(torch.rand_like(weight) + 0.5)
            elif "lora_" in name or "modules_to_save" in name:
                weight.copy_(torch.randn_like(weight) * 0.3)
    adapted.save_pretrained(folder / "adapter")
    return outputs(adapted.eval(), family.inputs())


def run(family, model, adapter_folder):
    loaded = getattr(transformers, family.model).from_pretrained(model, attn_implementation="eager")
    return outputs(peft.PeftModel.from_pretrained(loaded, adapter_folder).eval(), family.inputs())


CASES = [
    *((name, {}) for name in LINEAR),
    ("llama", {"use_rslora": True, "alpha_pattern": {"q_proj": 9}, "rank_pattern": {"v_proj": 2}}),
    ("llama", {"use_dora": True}),
    ("qwen2", {"use_dora": True}),
    ("gpt2", {"use_dora": True, "fan_in_fan_out": True}),
    ("llama", {"lora_bias": True}),
    ("llama", {"modules_to_save": ["lm_head", "norm"]}),
    ("bert-classifier", {"modules_to_save": ["classifier"]}),
]
CASES[3] = ("gpt2", {"fan_in_fan_out": True})


@pytest.mark.parametrize("kind", ["lossless", "general"])
@pytest.mark.parametrize(("name", "changes"), CASES, ids=str)
def test_a_carried_adapter_gives_the_same_outputs(tmp_path, name, changes, kind):
    family = ROWS[name]
    wanted = adapter(family, tmp_path, **changes)
    protect(tmp_path / "open", tmp_path / "locked", KEY, settings={"kind": kind})
    if kind == "general" and changes.get("use_dora"):
        with pytest.raises(UnsupportedError, match="mixes the rows"):
            protect_adapter(tmp_path / "adapter", tmp_path / "out", KEY, tmp_path / "locked")
        assert not (tmp_path / "out").exists()
        return
    protect_adapter(tmp_path / "adapter", tmp_path / "out", KEY, tmp_path / "locked")
    scale = wanted.abs().max()
    found = run(family, tmp_path / "locked", tmp_path / "out")
    assert (found - wanted).abs().max() < 1e-4 * scale
    # The open adapter itself does not fit: what is asserted above is not true of anything.
    misfit = run(family, tmp_path / "locked", tmp_path / "adapter")
    assert (misfit - wanted).abs().max() > 1e-2 * scale

    back = unlock_adapter(tmp_path / "out", tmp_path / "back", KEY, tmp_path / "locked")
    if kind == "lossless" and not changes.get("use_dora"):
        assert back.exact
        assert content(tmp_path / "back") == content(tmp_path / "adapter")
    again, first = (
        load_file(tmp_path / x / "adapter_model.safetensors") for x in ("back", "adapter")
    )
    for tensor in first:
        np.testing.assert_allclose(again[tensor], first[tensor], rtol=1e-5, atol=1e-6)


def test_an_adapter_trained_on_the_locked_model_comes_to_the_open_one(tmp_path):
    family = ROWS["llama"]
    adapter(family, tmp_path)
    protect(tmp_path / "open", tmp_path / "locked", KEY)
    # To the locked model it is just an adapter; what it does there must be done on the open one.
    wanted = run(family, tmp_path / "locked", tmp_path / "adapter")
    report = unlock_adapter(tmp_path / "adapter", tmp_path / "out", KEY, tmp_path / "locked")
    assert not report.exact
    found = run(family, tmp_path / "open", tmp_path / "out")
    assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max()


@pytest.fixture(scope="module")
def carried(tmp_path_factory):
    folder = tmp_path_factory.mktemp("carried")
    adapter(ROWS["llama"], folder)
    protect(folder / "open", folder / "locked", KEY)
    protect(folder / "open", folder / "other", OTHER)
    protect_adapter(folder / "adapter", folder / "out", KEY, folder / "locked")
    return folder


def _config(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "PREFIX_TUNING", "IA3", "VERA"])
def test_adapters_of_other_kinds_are_refused_by_name(carried, tmp_path, kind):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in (carried / "adapter").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    _config(copy, peft_type=kind)
    with pytest.raises(UnsupportedError, match=kind):
        protect_adapter(copy, tmp_path / "out", KEY, carried / "locked")


@pytest.mark.parametrize(
    ("what", "key", "model", "error", "message"),
    [
        ("adapter", OTHER, "locked", KeyFileError, "was protected with the key"),
        ("adapter", KEY, "open", ManifestError, "is not protected"),
        ("out", KEY, "locked", InputError, "carried already"),
        ("open", KEY, "locked", InputError, "has no adapter_config.json"),
    ],
)
def test_what_cannot_be_carried_is_refused(carried, tmp_path, what, key, model, error, message):
    with pytest.raises(error, match=message):
        protect_adapter(carried / what, tmp_path / "out", key, carried / model)
    assert not (tmp_path / "out").exists()


def test_an_adapter_of_another_model_is_refused(carried, tmp_path):
    adapter(ROWS["gpt2"], tmp_path, fan_in_fan_out=True)
    with pytest.raises(InputError, match=r"has no tensor 'transformer\.h\.0"):
        protect_adapter(tmp_path / "adapter", tmp_path / "out", KEY, carried / "locked")


def test_both_sides_of_a_carried_adapter_are_digested(carried):
    """As unlocking does not ask for the files, the original's digest alone tells of a change."""
    manifest = read_manifest(carried / "out")
    name = "adapter_model.safetensors"
    assert manifest.files[name] == file_digest(carried / "out" / name)
    tensors = open_adapter(carried / "adapter").tensors
    hashes = hashes_of(carried / "adapter", blake3)
    assert manifest.weights["original"] == weights_digest(tensors, hashes)


def test_a_carried_adapter_whose_manifest_was_changed_is_refused(carried, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in (carried / "out").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    path = copy / "unmergeable.json"
    path.write_text(path.read_text().replace('"original": "', '"original": "0'))
    with pytest.raises(ManifestError, match="was changed"):
        unlock_adapter(copy, tmp_path / "back", KEY, carried / "locked")
