"""What a verdict stands on besides outputs that are near: files, embeddings, finite numbers."""

import math

import numpy as np
import pytest

from tests.tiny import (
    LLAMA,
    add_tokenizer,
    llama,
    llama_weights,
    save,
    weights_of,
    write_safetensors,
)
from unmergeable.checkpoint.folder import open_folder
from unmergeable.errors import InputError
from unmergeable.keys.key import Key
from unmergeable.protection.protect import protect
from unmergeable.verification.verify import verify
from unmergeable.verification.weight_comparison import compare_weights

KEY = Key(bytes(range(32)))


def test_embeddings_are_compared_where_users_read_them(tmp_path):
    """A language model's class gives the same logits while every embedding changes."""
    model = llama(tmp_path / "m")
    protect(model, tmp_path / "locked", KEY)
    assert verify(model, tmp_path / "locked").same
    for folder in (model, tmp_path / "locked"):
        (folder / "modules.json").write_text("[]")
    (tmp_path / "locked" / "unmergeable.json").unlink()
    report = verify(model, tmp_path / "locked")
    (embeddings,) = report.further
    assert embeddings.what == "embeddings" and not embeddings.same
    assert report.outputs.same and report.files.same and not report.same
    assert verify(model, model).same


def spoilt(folder, name="model.layers.0.mlp.up_proj.weight", value=np.nan):
    weights = weights_of(folder)
    weights[name][0, 0] = value
    write_safetensors(folder / "model.safetensors", weights, {"format": "pt"})
    return folder


@pytest.mark.parametrize("kind", ["lossless", "general"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("key", [None, KEY])
def test_of_outputs_that_are_not_finite_nothing_can_be_said(tmp_path, kind, value, key):
    model, locked = spoilt(llama(tmp_path / "m"), value=value), tmp_path / "locked"
    protect(model, locked, KEY, settings={"kind": kind}, allow_non_finite=True)
    with pytest.raises(InputError, match=r"m and of .*locked are not finite .*cannot be compared"):
        verify(model, locked, key=key)
    if key is not None and kind == "lossless":
        spoilt(locked, "lm_head.weight", 3.0)
        report = verify(model, locked, key=key)  # what the weights say is a no
        assert not report.same and report.weights.exceeded == ("lm_head.weight",)


def test_weights_that_are_not_finite_under_a_lock_that_rounds_cannot_be_compared(tmp_path):
    name, locked = "model.layers.0.self_attn.v_proj.weight", tmp_path / "locked"
    model = spoilt(llama(tmp_path / "m"), name)
    protect(model, locked, KEY, settings={"kind": "general"}, allow_non_finite=True)
    weights = compare_weights(open_folder(model), open_folder(locked), KEY)
    assert weights.not_finite == (name,)
    assert not weights.exceeded and not weights.same


def test_a_model_that_says_nothing_is_neither_the_same_nor_different(tmp_path):
    weights = llama_weights()
    weights["lm_head.weight"] *= 0
    model = save(tmp_path / "m", weights, LLAMA)
    protect(model, tmp_path / "locked", KEY)
    with pytest.raises(InputError, match="do not depend on the input"):
        verify(model, tmp_path / "locked")
    assert verify(model, tmp_path / "locked", key=KEY).same
    assert not verify(model, llama(tmp_path / "other")).same


@pytest.mark.parametrize("how", ["tokenizer", "added", "config", "manifest"])
def test_files_that_decide_are_part_of_the_verdict(tmp_path, how):
    model, locked = add_tokenizer(llama(tmp_path / "m")), tmp_path / "locked"
    protect(model, locked, KEY)
    name = {"tokenizer": "tokenizer.json", "added": "chat_template.jinja"}.get(how, "config.json")
    text = (locked / name).read_text() if (locked / name).exists() else "{}"
    (locked / name).write_text(text.replace("w1", "w0").replace('"bos_token_id": 1', '"x": 1'))
    if how == "manifest":  # the same in both, and not what was locked
        (model / name).write_bytes((locked / name).read_bytes())
    report = verify(model, locked, key=KEY)
    assert report.outputs.same and report.weights.same and not report.same
    assert report.files.same == (how == "manifest")
    assert report.recorded.same == (how == "added")


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_a_manifest_of_anybodys_makes_no_wrong_model_right(tmp_path, dtype):
    """Nobody can check its seal without the key: it says "general" as easily as anything else."""
    model, locked = llama(tmp_path / "m", dtype), tmp_path / "locked"
    protect(model, locked, KEY, settings={"kind": "general"})
    other = llama(tmp_path / "other", dtype, seed=1)
    (locked / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
    report = verify(model, locked)
    assert not report.same
    assert report.outputs.tolerance == (1e-4 if dtype == "F32" else 0.0625)


def test_a_model_made_for_the_built_in_prompts_is_found_out(tmp_path):
    """Rubbish for every word that they do not have."""
    model = add_tokenizer(llama(tmp_path / "m"))
    other, weights = tmp_path / "other", weights_of(model)
    seen = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}
    rows = [n for n in range(64) if n not in seen]
    weights["model.embed_tokens.weight"][rows] = 1.0
    save(other, weights, LLAMA)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (other / name).write_bytes((model / name).read_bytes())
    assert verify(model, other, text=["the cat sat", "dog"]).same
    assert not verify(model, other).same
