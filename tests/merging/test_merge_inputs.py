"""Inputs of a merge with numbers that are none, and with weights that are stored twice."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from tests.merging.small import pair
from tests.tiny import (
    LLAMA,
    NUMBERS,
    llama,
    llama_weights,
    logits,
    save,
    stored,
    weights_of,
    write_safetensors,
)
from unmergeable.cli import main
from unmergeable.errors import InputError
from unmergeable.keys.key import Key
from unmergeable.merging.merge import merge
from unmergeable.protection.protect import protect, unlock

KEY = Key(bytes(range(32)))
HALF = {"weight": 0.5}

# Numbers that are none


@pytest.mark.parametrize("method", ["linear", "wudi"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("which", ["one", "two"])
def test_an_input_that_is_not_finite_is_refused(tmp_path, method, value, which):
    folders = dict(zip(("one", "two"), pair(tmp_path), strict=True))
    weights = weights_of(folders[which])
    weights["model.norm.weight"][7] = value
    write_safetensors(folders[which] / "model.safetensors", weights)
    base = None if method == "linear" else llama(tmp_path / "base", seed=5)
    options = {"base": base, "parameters": HALF if method == "linear" else {}}
    with pytest.raises(InputError, match=rf"model\.norm\.weight of \S*/{which} has a NaN or"):
        merge([*folders.values()], tmp_path / "out", method, **options)
    assert not (tmp_path / "out").exists()
    if method == "linear":
        merge([*folders.values()], tmp_path / "out", method, allow_non_finite=True, **options)
        assert not np.isfinite(weights_of(tmp_path / "out")["model.norm.weight"][7])


@pytest.mark.parametrize("locked", [0, 1])
def test_numbers_that_are_none_are_refused_or_carried_under_a_key(tmp_path, locked):
    folders = pair(tmp_path)
    weights = weights_of(folders[1])
    weights["model.norm.weight"][7] = np.nan
    write_safetensors(folders[1] / "model.safetensors", weights)
    merge(folders, tmp_path / "open", "linear", parameters=HALF, allow_non_finite=True)
    folders[locked] = protect(folders[locked], tmp_path / "locked", KEY, allow_non_finite=True).out
    with pytest.raises(InputError, match=r"model\.norm\.weight of .* has a NaN"):
        merge(folders, tmp_path / "out", "linear", parameters=HALF, key=KEY)
    merge(folders, tmp_path / "out", "linear", parameters=HALF, key=KEY, allow_non_finite=True)
    unlock(tmp_path / "out", tmp_path / "back", KEY)
    ours, theirs = weights_of(tmp_path / "back"), weights_of(tmp_path / "open")
    assert all(np.array_equal(ours[name], theirs[name], equal_nan=True) for name in ours)
    assert np.isnan(ours["model.norm.weight"]).sum() == 1


@pytest.mark.parametrize(
    ("dtype", "factor", "parameters", "said"),
    [
        ("F16", 1e6, HALF, r"\d+e\+0\d, which F16 cannot hold"),
        ("F16", 1.0, {"weight": [1e5, 1e5], "normalize": False}, "F16 cannot hold"),
        ("BF16", 1.0, {"weight": [float("nan"), 1.0]}, "NaN or inf"),
        ("F32", 1.0, {"weight": [1e30, 1e30], "normalize": False}, None),
    ],
)
def test_a_sum_that_the_dtype_cannot_hold_is_refused(tmp_path, dtype, factor, parameters, said):
    one = llama(tmp_path / "one", dtype)
    weights = llama_weights(1)
    weights["model.norm.weight"] *= np.float32(factor)
    two = save(tmp_path / "two", weights, LLAMA)
    if said is None:
        merge([one, two], tmp_path / "out", "linear", parameters=parameters)
        return
    with pytest.raises(InputError, match=rf"the merge of \S+\.weight has .*{said}.*non-finite"):
        merge([one, two], tmp_path / "out", "linear", parameters=parameters)
    assert not (tmp_path / "out").exists()
    merge([one, two], tmp_path / "out", "linear", parameters=parameters, allow_non_finite=True)
    assert weights_of(tmp_path / "out")["model.norm.weight"].dtype == NUMBERS[dtype]


def test_the_command_carries_them_when_it_is_told_to(tmp_path):
    one, two = pair(tmp_path)
    command = ["merge", str(tmp_path / "out"), "--method", "linear", "--set", "weight=NaN"]
    command += ["--model", str(one), "--model", str(two)]
    assert main(command) == 2
    assert main([*command, "--allow-non-finite"]) == 0


# Weights that are tied

HEADS = {
    "llama": ("lm_head.weight", "model.embed_tokens.weight"),
    "bert": ("cls.predictions.decoder.weight", "bert.embeddings.word_embeddings.weight"),
    "bert's bias": ("cls.predictions.decoder.bias", "cls.predictions.bias"),
    "t5": ("decoder.embed_tokens.weight", "shared.weight"),
    "bart": ("model.encoder.embed_tokens.weight", "model.shared.weight"),
}


def tied(folder: Path, kind: str, seed: int) -> Path:
    """A model whose head is tied, as transformers saves it."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    if kind == "llama":
        config = transformers.LlamaConfig(
            vocab_size=64, intermediate_size=24, tie_word_embeddings=True, **sizes
        )
        model = transformers.LlamaForCausalLM(config)
    elif kind.startswith("bert"):
        config = transformers.BertConfig(
            vocab_size=64, intermediate_size=24, max_position_embeddings=32, **sizes
        )
        model = transformers.BertForMaskedLM(config)
    elif kind == "t5":
        config = transformers.T5Config(
            vocab_size=64, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2
        )
        model = transformers.T5ForConditionalGeneration(config)
    else:
        config = transformers.BartConfig(
            vocab_size=64, d_model=16, encoder_layers=1, decoder_layers=1,
            encoder_attention_heads=2, decoder_attention_heads=2,
            encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=32,
        )  # fmt: skip
        model = transformers.BartForConditionalGeneration(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    model.save_pretrained(folder)
    return folder


def store_twice(folder: Path, kind: str, change: float = 0, drop: bool = False) -> Path:
    """Stores what is tied to a table beside it, or in its place."""
    name, table = HEADS[kind]
    weights = weights_of(folder)
    assert name not in weights
    weights[name] = weights[table] + np.float32(change)
    if drop:
        del weights[table]
    write_safetensors(folder / "model.safetensors", weights, {"format": "pt"})
    return folder


@pytest.mark.parametrize("which", [(0,), (1,), (0, 1), ()])
@pytest.mark.parametrize("kind", HEADS)
def test_a_tied_weight_that_is_stored_twice_is_one(tmp_path, kind, which):
    folders = [tied(tmp_path / name, kind, seed) for seed, name in enumerate("ab")]
    merge(folders, tmp_path / "wanted", "linear", parameters={"weight": [0.7, 0.3]})
    if not which:  # in its place
        store_twice(folders[1], kind, drop=True)
    else:
        for at in which:
            store_twice(folders[at], kind)
    merge(folders, tmp_path / "out", "linear", parameters={"weight": [0.7, 0.3]})
    out, wanted = weights_of(tmp_path / "out"), weights_of(tmp_path / "wanted")
    name, table = HEADS[kind]
    if 0 in which:
        assert out.pop(name).tobytes() == wanted[table].tobytes()
    assert out.keys() == wanted.keys()
    assert all(out[key].tobytes() == wanted[key].tobytes() for key in out)


@pytest.mark.parametrize("method", ["dare_linear", "tsv", "wudi"])
def test_what_is_drawn_and_what_takes_whole_models_sees_it_once(tmp_path, method):
    names = {"base": 0, "a": 1, "b": 2}
    base, *models = [tied(tmp_path / name, "llama", seed) for name, seed in names.items()]
    parameters = {"weight": 0.5, "density": 0.5} if method == "dare_linear" else {}
    merge(models, tmp_path / "wanted", method, base=base, parameters=parameters)
    store_twice(models[0], "llama")
    store_twice(base, "llama")
    merge(models, tmp_path / "out", method, base=base, parameters=parameters)
    out, wanted = weights_of(tmp_path / "out"), weights_of(tmp_path / "wanted")
    assert out["lm_head.weight"].tobytes() == out["model.embed_tokens.weight"].tobytes()
    assert all(out[key].tobytes() == wanted[key].tobytes() for key in wanted)


@pytest.mark.parametrize("locked", [0, 1])
@pytest.mark.parametrize("twice", [0, 1])
def test_a_tied_weight_is_one_under_a_key(tmp_path, locked, twice):
    folders = [tied(tmp_path / name, "llama", seed) for seed, name in enumerate("ab")]
    store_twice(folders[twice], "llama")
    merge(folders, tmp_path / "open", "linear", parameters=HALF)
    folders[locked] = protect(folders[locked], tmp_path / "locked", KEY).out
    merge(folders, tmp_path / "out", "linear", parameters=HALF, key=KEY)
    assert np.abs(logits(tmp_path / "out") - logits(tmp_path / "open")).max() < 1e-5
    unlock(tmp_path / "out", tmp_path / "back", KEY)
    assert stored(tmp_path / "back") == stored(tmp_path / "open")


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("kind", HEADS)
def test_a_tied_weight_that_differs_from_its_table_is_refused(tmp_path, kind, which):
    folders = [tied(tmp_path / name, kind, seed) for seed, name in enumerate("ab")]
    store_twice(folders[which], kind, change=0.5)
    name, table = HEADS[kind]
    with pytest.raises(InputError, match=r"tie_word_embeddings.*save it again") as refused:
        merge(folders, tmp_path / "out", "linear", parameters=HALF)
    assert name in str(refused.value) and table in str(refused.value)
    assert str(folders[which]) in str(refused.value)
    # where all of them store it, transformers unties it, and so it is merged as any other
    store_twice(folders[1 - which], kind)
    merge(folders, tmp_path / "out", "linear", parameters=HALF)
    out = weights_of(tmp_path / "out")
    a, b = map(weights_of, folders)
    assert np.allclose(out[name], (a[name] + b[name]) / 2)
    assert not np.allclose(out[name], out[table])


def test_a_tied_weight_of_an_unknown_class_is_told_what_to_do_with(tmp_path):
    folders = [tied(tmp_path / name, "llama", seed) for seed, name in enumerate("ab")]
    store_twice(folders[1], "llama")
    for folder in folders:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "architectures": ["Mine"]}))
    with pytest.raises(InputError, match=r"'lm_head\.weight' is absent.*tied.*save it again"):
        merge(folders, tmp_path / "out", "linear", parameters=HALF)


def test_a_head_that_is_not_tied_is_missed(tmp_path):
    folders = pair(tmp_path)
    weights = weights_of(folders[1])
    del weights["lm_head.weight"]
    write_safetensors(folders[1] / "model.safetensors", weights)
    weights = weights_of(folders[0])
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].copy()
    write_safetensors(folders[0] / "model.safetensors", weights)
    for models in (folders, folders[::-1]):
        with pytest.raises(
            InputError, match=r"not models of one kind: 'lm_head\.weight'.*absent"
        ) as refused:
            merge(models, tmp_path / "out", "linear", parameters=HALF)
        assert "tie_word_embeddings" not in str(refused.value)
