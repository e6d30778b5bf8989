"""What inputs of a merge must have in common, and what is not read or written in silence."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from tests.tiny import (
    LLAMA,
    NUMBERS,
    add_tokenizer,
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
from unmergeable.keys import Key
from unmergeable.merging.config_differences import differences
from unmergeable.merging.merge import merge
from unmergeable.protection import protect, unlock

KEY = Key(bytes(range(32)))
HALF = {"weight": 0.5}
NEW = {
    **{key: value for key, value in LLAMA.items() if key != "rope_theta"},
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}


def pair(folder: Path, ours=None, theirs=None) -> list[Path]:
    """Two Llamas of equal shapes whose configs, over the tiny one's, have these keys."""
    folders = []
    for seed, (name, changes) in enumerate({"one": ours, "two": theirs}.items()):
        folders.append(save(folder / name, llama_weights(seed), {**LLAMA, **(changes or {})}))
    return folders


# Configs

LINEAR = {"rope_type": "linear", "factor": 2.0}
DECIDES = {
    "activation": ("llama", {"hidden_act": "gelu"}, "hidden_act ('silu' and 'gelu')"),
    "norm": ("llama", {"rms_norm_eps": 1e-5}, "rms_norm_eps (1e-06 and 1e-05)"),
    "heads": (
        "llama",
        {"num_attention_heads": 8, "num_key_value_heads": 4},
        "num_attention_heads (4 and 8)",
    ),
    "size of a head": ("llama", {"head_dim": 16}, "head_dim (8 and 16)"),
    "base": (
        "llama",
        {"rope_theta": 1e6},
        "rope_parameters.rope_theta (10000.0 and 1000000.0), rope_theta (10000.0 and 1000000.0)",
    ),
    "scaling": ("llama", {"rope_scaling": LINEAR}, "rope_parameters.factor (absent and 2.0)"),
    "scaling as spelled": ("llama", {"rope_scaling": LINEAR}, "rope_scaling (absent and {"),
    "tie": ("llama", {"tie_word_embeddings": True}, "tie_word_embeddings (False and True)"),
    "type": ("llama", {"model_type": "mistral"}, "model_type ('llama' and 'mistral')"),
    "class": ("llama", {"architectures": ["X"]}, "architectures (['LlamaForCausalLM'] and ['X'])"),
    "values that no one takes": ("llama", {"hidden_act": 5}, "hidden_act ('silu' and 5)"),
    "a size beyond bounds": ("llama", {"num_hidden_layers": 10**9}, "num_hidden_layers (2 and 10"),
    "window": ("mistral", {"sliding_window": 8}, "sliding_window (4096 and 8)"),
    "no window": ("mistral", {"sliding_window": None}, "sliding_window (4096 and None)"),
    "window in use": (
        "qwen2",
        {"use_sliding_window": True, "sliding_window": 4},
        "sliding_window (None and 4)",
    ),
    "scale of logits": ("granite", {"logits_scaling": 2.0}, "logits_scaling (1.0 and 2.0)"),
    "softcap": (
        "gemma2",
        {"final_logit_softcapping": 20.0},
        "final_logit_softcapping (30.0 and 20",
    ),
    "an alias": ("gpt2", {"num_attention_heads": 6}, "n_head (12 and 6), num_attention_heads (abs"),
    "labels": (
        "bert",
        {"id2label": {"0": "no", "1": "yes"}},
        "id2label.0 ('yes' and 'no'), id2label.1 ('no' and 'yes')",
    ),
    "number of labels": (
        "bert",
        {"id2label": {"0": "yes", "1": "no", "2": "?"}},
        "id2label.2 (absent and '?')",
    ),
    "dropout that scales": ("esm", {"token_dropout": True}, "token_dropout (False and True)"),
    "a nested key": (
        "llava",
        {"text_config": {"model_type": "llama", "rms_norm_eps": 0.1}},
        "text_config.rms_norm_eps (1e-06 and 0.1)",
    ),
    "a type that is not known": ("odd", {"twist": 3}, "twist (2 and 3)"),
    "a key of one of them": ("odd", {"turn": {"by": 3}}, "turn.by (absent and 3)"),
}
KINDS = {
    "llama": LLAMA,
    "bert": {"id2label": {"0": "yes", "1": "no"}},
    "llava": {"text_config": {"model_type": "llama"}},
    "odd": {"twist": 2},
    "esm": {"token_dropout": False},
}
HARMLESS = {
    "nothing": ("llama", {}, None),
    "dtype": ("llama", {"torch_dtype": "bfloat16", "dtype": "float16"}, None),
    "training": ("llama", {"attention_dropout": 0.1, "initializer_range": 0.5}, None),
    "how it is run": ("llama", {"use_cache": False, "_attn_implementation": "eager"}, None),
    "records": ("llama", {"_name_or_path": "x", "transformers_version": "1", "auto_map": {}}, None),
    "a default": ("llama", {"attention_bias": False, "head_dim": 8, "rope_scaling": None}, None),
    "old scaling": ("scaled", {"rope_scaling": {"type": "linear", "factor": 2.0}}, None),
    "tokens": ("llama", {"eos_token_id": [2, 3]}, "eos_token_id (2 and [2, 3])"),
    "context": ("llama", {"max_position_embeddings": 64}, "max_position_embeddings (128 and 64)"),
    "a comment": ("llama", {"comment": "x"}, "comment (absent and 'x')"),
    "no class": ("llama", {"architectures": None}, "architectures (['LlamaForCausalLM'] and None)"),
    "unnamed labels": ("bert", {"id2label": {"0": "LABEL_0", "1": "no"}}, "id2label.0 ('yes' and "),
    "a window that is not in use": (
        "qwen2 unused",
        {"sliding_window": 77},
        "sliding_window (4 and 77)",
    ),
    "a base beside the one in force": ("new", {"rope_theta": 1e6}, "rope_theta (absent and 1000"),
}
KINDS |= {
    "scaled": {**LLAMA, "rope_scaling": LINEAR},
    "qwen2 unused": {"model_type": "qwen2", "sliding_window": 4},
    "new": NEW,
}


def of(kind: str, changes: dict) -> list[dict]:
    ours = {"model_type": kind, **KINDS.get(kind, {})}
    return [ours, {**ours, **changes}]


@pytest.mark.parametrize("case", DECIDES)
def test_what_decides_is_named_with_both_values(case):
    kind, changes, said = DECIDES[case]
    ours, theirs = of(kind, changes)
    found = differences(ours, theirs)
    assert found[0].decides
    assert said in ", ".join(map(str, found))
    back = differences(theirs, ours)
    assert [one.key for one in back] == [one.key for one in found] or "absent" in said
    assert not differences(ours, json.loads(json.dumps(ours)))


@pytest.mark.parametrize("case", HARMLESS)
def test_what_may_be_meant_is_noted_or_passed_over(case):
    kind, changes, said = HARMLESS[case]
    found = differences(*of(kind, changes))
    assert not any(one.decides for one in found)
    assert (said or "") in ", ".join(map(str, found))
    assert bool(found) == bool(said)


def test_old_and_new_spellings_are_one_config():
    assert not differences(LLAMA, NEW)
    saved = transformers.LlamaConfig.from_dict(dict(LLAMA)).to_dict()
    assert not differences(LLAMA, json.loads(json.dumps(saved, default=str)))
    assert differences({**LLAMA, "rope_theta": 5e5}, NEW)[0].decides


FAMILIES = (
    "llama mistral mixtral qwen2 qwen3 gemma gemma2 gemma3 gemma3n phi3 granite gpt2 gpt_neox"
)
FAMILIES += " deepseek_v3 bert modernbert t5 bart vit clip whisper llava wav2vec2 vits"


@pytest.mark.parametrize("kind", FAMILIES.split())
def test_defaults_are_what_transformers_takes(kind):
    """Every family's config as a whole is the one that leaves all of it out."""
    whole = transformers.CONFIG_MAPPING[kind]().to_dict()
    found = differences({"model_type": kind}, json.loads(json.dumps(whole, default=str)))
    assert not any(one.decides for one in found), found


def test_a_comment_in_a_config_that_no_one_takes_is_no_reason_to_refuse():
    broken = {**LLAMA, "hidden_act": 5}
    (one,) = differences(broken, {**broken, "comment": "x"})
    assert (str(one), one.decides) == ("comment (absent and 'x')", False)


def _nested(depth: int) -> dict:
    table: dict = {}
    for _ in range(depth):
        table = {"a": table}
    return table


@pytest.mark.parametrize(
    "changes",
    [
        {"x": _nested(900)},
        {"x": 10**4000},
        {"x" * 10**6: {str(n): 1 for n in range(1000)}},
        {"x": "\n" * 10**6},
        {"x\n": float("nan")},
        {"num_labels": 10**12},
        {"num_hidden_layers": -1},
        {"id2label": [[]]},
        {"rope_parameters": 7},
        {"architectures": {"a": 1}},
        {"model_type": ["llama"]},
        {"model_type": "llama\0" * 10**5},
        {"backbone": "some/model"},
    ],
    ids=lambda changes: next(iter(changes))[:20].strip(),
)
@pytest.mark.parametrize("kind", ["llama", "odd"])
def test_any_config_is_compared_in_one_line(tmp_path, changes, kind):
    ours, theirs = of(kind, changes)
    text = ", ".join(map(str, differences(ours, theirs)[:6]))
    assert 0 < len(text) < 1500 and text.isprintable()


def test_no_network_is_asked_for_a_config(monkeypatch):
    def asked(*arguments, **options):
        pytest.fail("asked the network")

    monkeypatch.setattr(transformers.PreTrainedConfig, "get_config_dict", asked)
    ours = {"model_type": "detr", "backbone": "some/model", "use_timm_backbone": False}
    assert differences(ours, {**ours, "d_model": 7})[0].key == "d_model"


@pytest.mark.parametrize("key", [None, KEY])
def test_models_that_compute_otherwise_are_refused(tmp_path, key):
    one, two = pair(tmp_path, None, {"hidden_act": "gelu"})
    if key:
        one = protect(one, tmp_path / "locked", key).out
    with pytest.raises(InputError, match=r"hidden_act \('silu' and 'gelu'\).*--allow-mismatch"):
        merge(tmp_path / "out", "linear", [one, two], parameters=HALF, key=key)
    assert not (tmp_path / "out").exists()
    merged = merge(
        tmp_path / "out", "linear", [one, two], parameters=HALF, key=key, allow_mismatch=True
    )
    assert "hidden_act ('silu' and 'gelu')" in merged.notes[0]


def test_a_base_that_computes_otherwise_is_refused(tmp_path):
    one, two = pair(tmp_path, None, {"rope_theta": 5e5})
    with pytest.raises(InputError, match=r"rope_theta \(10000\.0 and 500000\.0\)"):
        merge(tmp_path / "out", "task_arithmetic", [one], base=two, parameters=HALF)


def test_a_mismatch_of_shapes_cannot_be_allowed(tmp_path):
    one, _ = pair(tmp_path)
    wide = llama(tmp_path / "wide", intermediate_size=56)
    with pytest.raises(InputError, match=r"intermediate_size \(48 and 56\)") as refused:
        merge(tmp_path / "out", "linear", [one, wide], parameters=HALF)
    assert "--allow-mismatch" not in str(refused.value)
    with pytest.raises(InputError, match=r"not models of one kind: .*down_proj"):
        merge(tmp_path / "out", "linear", [one, wide], parameters=HALF, allow_mismatch=True)


def test_the_command_notes_what_it_went_on_with(tmp_path, capsys):
    one, two = pair(tmp_path, None, {"hidden_act": "gelu", "eos_token_id": 5})
    command = ["merge", "", "--method", "linear", "--model", str(one), "--model", str(two)]
    command += ["--set", "weight=0.5", "--json"]
    command[1] = str(tmp_path / "no")
    assert main(command) == 2
    assert "hidden_act ('silu' and 'gelu'), eos_token_id (2 and 5)" in capsys.readouterr().err
    command[1] = str(tmp_path / "yes")
    assert main([*command, "--allow-mismatch"]) == 0
    said = capsys.readouterr()
    assert "hidden_act ('silu' and 'gelu')" in said.err
    assert "hidden_act" in json.loads(said.out)["notes"][0]


# Tokenizers


def _fast(vocabulary, added=(), **model) -> str:
    added = [{"id": row, "content": token, "special": True} for row, token in added]
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "w0", **model}
    return json.dumps({"version": "1.0", "added_tokens": added, "normalizer": None, "model": model})


WORDS = {f"w{n}": n for n in range(64)}
SWAPPED = {**WORDS, "w3": 4, "w4": 3}
LINES = "\n".join(WORDS)
TOKENIZERS = {
    "another vocabulary": (
        {"tokenizer.json": _fast(WORDS)},
        {"tokenizer.json": _fast({f"w{63 - n}": n for n in range(64)})},
        r"number 64 of 64 tokens otherwise, such as 0 \('w0' and 'w63'\)",
        True,
    ),
    "two words": (
        {"tokenizer.json": _fast(WORDS)},
        {"tokenizer.json": _fast(SWAPPED)},
        r"number 2 of 64 tokens otherwise, such as 3 \('w3' and 'w4'\)",
        True,
    ),
    "scored pieces": (
        {"tokenizer.json": _fast([["a", -1.0], ["b", -2.0]])},
        {"tokenizer.json": _fast([["b", -1.0], ["a", -2.0]])},
        "number 2 of 2 tokens otherwise",
        True,
    ),
    "a table of words": (
        {"vocab.json": json.dumps(WORDS), "merges.txt": ""},
        {"vocab.json": json.dumps(SWAPPED), "merges.txt": ""},
        "number 2 of 64 tokens otherwise",
        True,
    ),
    "a list of words": (
        {"vocab.txt": LINES + "\n"},
        {"vocab.txt": LINES.replace("w5\n", "wx\n")},
        r"number 1 of 64 tokens otherwise, such as 5 \('w5' and 'wx'\)",
        True,
    ),
    "two kinds of files": (
        {"tokenizer.json": _fast(WORDS)},
        {"vocab.json": json.dumps(SWAPPED)},
        "number 2 of 64 tokens otherwise",
        True,
    ),
    "added tokens": (
        {"tokenizer.json": _fast(WORDS, [(64, "<a>")])},
        {"tokenizer.json": _fast(WORDS, [(64, "<b>"), (65, "<c>")])},
        r"number 1 of 65 added tokens otherwise, such as 64 \('<a>' and '<b>'\), one has 1 tokens",
        False,
    ),
    "tokens added later": (
        {"vocab.txt": LINES, "added_tokens.json": '{"<a>": 64}'},
        {"vocab.txt": LINES, "added_tokens.json": '{"<b>": 64}'},
        "number 1 of 65 added tokens otherwise",
        False,
    ),
    "tokens added in settings": (
        {"vocab.txt": LINES},
        {
            "vocab.txt": LINES,
            "tokenizer_config.json": '{"added_tokens_decoder": {"64": {"content": "<b>"}}}',
        },
        r"one has 1 tokens that the other lacks, such as 64 \('<b>'\)",
        False,
    ),
    "merges": (
        {"tokenizer.json": _fast(WORDS, type="BPE", merges=["a b"])},
        {"tokenizer.json": _fast(WORDS, type="BPE", merges=["a c"])},
        "the merges of their tokenizers differs",
        False,
    ),
    "merges in a file": (
        {"vocab.json": json.dumps(WORDS), "merges.txt": "a b"},
        {"vocab.json": json.dumps(WORDS), "merges.txt": "a c"},
        r"the tokenizer file merges\.txt differs",
        False,
    ),
    "sentencepiece": (
        {"tokenizer.model": "\1\2"},
        {"tokenizer.model": "\1\3"},
        r"the tokenizer file tokenizer\.model differs",
        False,
    ),
    "kinds without anything in common": (
        {"tokenizer.model": "\1"},
        {"tokenizer.json": _fast(WORDS)},
        "kinds that cannot be compared",
        False,
    ),
    "none in one": ({"tokenizer.json": _fast(WORDS)}, {}, r"two has no tokenizer", False),
    "none in the other": ({}, {"tokenizer.model": "x"}, r"one has no tokenizer", False),
    "a damaged one": (
        {"tokenizer.json": "[" * 10**5},
        {"tokenizer.json": _fast(WORDS)},
        r"'tokenizer\.json' cannot be read",
        False,
    ),
    "one that would fill the memory": (
        {"tokenizer.json": "[" + "[]," * 4_000_000 + "[]]"},
        {"tokenizer.json": _fast(WORDS)},
        r"'tokenizer\.json' cannot be read",
        False,
    ),
}
ALIKE = {
    "none": ({}, {}),
    "the same": ({"tokenizer.json": _fast(WORDS)}, {"tokenizer.json": _fast(WORDS)}),
    "another chat": (
        {"tokenizer.json": _fast(WORDS)},
        {"tokenizer.json": _fast(WORDS), "tokenizer_config.json": '{"chat_template": "x"}'},
    ),
    "two kinds of files": (
        {"tokenizer.json": _fast(WORDS)},
        {"vocab.txt": LINES.replace("\n", "\r\n") + "\r\n"},
    ),
    "two spellings of merges": (
        {"tokenizer.json": _fast(WORDS, type="BPE", merges=["a b"])},
        {"tokenizer.json": _fast(WORDS, type="BPE", merges=[["a", "b"]])},
    ),
    "a fast one besides": (
        {"tokenizer.model": "x", "tokenizer.json": _fast(WORDS)},
        {"tokenizer.model": "x"},
    ),
    "odd values": (
        {"tokenizer.json": '{"model": 5, "added_tokens": [5, {}]}'},
        {"tokenizer.json": '{"model": {"vocab": [5, []]}, "added_tokens": {"a": 1}}'},
    ),
}


def _with_tokenizers(folder: Path, *tokenizers) -> list[Path]:
    folders = pair(folder)
    for path, files in zip(folders, tokenizers, strict=True):
        for name, content in files.items():
            (path / name).write_bytes(content.encode())
    return folders


@pytest.mark.parametrize("case", TOKENIZERS)
def test_tokenizers_that_disagree_are_refused_or_noted(tmp_path, case):
    *tokenizers, said, decides = TOKENIZERS[case]
    folders = _with_tokenizers(tmp_path, *tokenizers)
    if decides:
        with pytest.raises(InputError, match=rf"{said}.*--allow-mismatch") as refused:
            merge(tmp_path / "out", "linear", folders, parameters=HALF)
        assert len(str(refused.value)) < 1500
    merged = merge(
        tmp_path / "out", "linear", folders, parameters=HALF, allow_mismatch=bool(decides)
    )
    (note,) = merged.notes
    assert re.search(said, note)


@pytest.mark.parametrize("case", ALIKE)
def test_tokenizers_that_agree_are_not_mentioned(tmp_path, case):
    folders = _with_tokenizers(tmp_path, *ALIKE[case])
    assert merge(tmp_path / "out", "linear", folders, parameters=HALF).notes == ()


def test_a_real_tokenizer_agrees_with_itself(tmp_path):
    folders = [add_tokenizer(folder) for folder in pair(tmp_path)]
    assert merge(tmp_path / "out", "linear", folders, parameters=HALF).notes == ()


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
        merge(tmp_path / "out", method, [*folders.values()], **options)
    assert not (tmp_path / "out").exists()
    if method == "linear":
        merge(tmp_path / "out", method, [*folders.values()], allow_non_finite=True, **options)
        assert not np.isfinite(weights_of(tmp_path / "out")["model.norm.weight"][7])


@pytest.mark.parametrize("locked", [0, 1])
def test_numbers_that_are_none_are_refused_or_carried_under_a_key(tmp_path, locked):
    folders = pair(tmp_path)
    weights = weights_of(folders[1])
    weights["model.norm.weight"][7] = np.nan
    write_safetensors(folders[1] / "model.safetensors", weights)
    merge(tmp_path / "open", "linear", folders, parameters=HALF, allow_non_finite=True)
    folders[locked] = protect(folders[locked], tmp_path / "locked", KEY, allow_non_finite=True).out
    with pytest.raises(InputError, match=r"model\.norm\.weight of .* has a NaN"):
        merge(tmp_path / "out", "linear", folders, parameters=HALF, key=KEY)
    merge(tmp_path / "out", "linear", folders, parameters=HALF, key=KEY, allow_non_finite=True)
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
        merge(tmp_path / "out", "linear", [one, two], parameters=parameters)
        return
    with pytest.raises(InputError, match=rf"the merge of \S+\.weight has .*{said}.*non-finite"):
        merge(tmp_path / "out", "linear", [one, two], parameters=parameters)
    assert not (tmp_path / "out").exists()
    merge(tmp_path / "out", "linear", [one, two], parameters=parameters, allow_non_finite=True)
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
    merge(tmp_path / "wanted", "linear", folders, parameters={"weight": [0.7, 0.3]})
    if not which:  # in its place
        store_twice(folders[1], kind, drop=True)
    else:
        for at in which:
            store_twice(folders[at], kind)
    merge(tmp_path / "out", "linear", folders, parameters={"weight": [0.7, 0.3]})
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
    merge(tmp_path / "wanted", method, models, base=base, parameters=parameters)
    store_twice(models[0], "llama")
    store_twice(base, "llama")
    merge(tmp_path / "out", method, models, base=base, parameters=parameters)
    out, wanted = weights_of(tmp_path / "out"), weights_of(tmp_path / "wanted")
    assert out["lm_head.weight"].tobytes() == out["model.embed_tokens.weight"].tobytes()
    assert all(out[key].tobytes() == wanted[key].tobytes() for key in wanted)


@pytest.mark.parametrize("locked", [0, 1])
@pytest.mark.parametrize("twice", [0, 1])
def test_a_tied_weight_is_one_under_a_key(tmp_path, locked, twice):
    folders = [tied(tmp_path / name, "llama", seed) for seed, name in enumerate("ab")]
    store_twice(folders[twice], "llama")
    merge(tmp_path / "open", "linear", folders, parameters=HALF)
    folders[locked] = protect(folders[locked], tmp_path / "locked", KEY).out
    merge(tmp_path / "out", "linear", folders, parameters=HALF, key=KEY)
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
        merge(tmp_path / "out", "linear", folders, parameters=HALF)
    assert name in str(refused.value) and table in str(refused.value)
    assert str(folders[which]) in str(refused.value)
    # where all of them store it, transformers unties it, and so it is merged as any other
    store_twice(folders[1 - which], kind)
    merge(tmp_path / "out", "linear", folders, parameters=HALF)
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
        merge(tmp_path / "out", "linear", folders, parameters=HALF)


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
            merge(tmp_path / "out", "linear", models, parameters=HALF)
        assert "tie_word_embeddings" not in str(refused.value)
