"""The configs of a merge's inputs: what decides, what may be meant, what does not matter."""

import json

import pytest
import transformers

from tests.merging.small import pair
from tests.tiny import LLAMA, llama
from unmergeable.cli import main
from unmergeable.errors import InputError
from unmergeable.keys.key import Key
from unmergeable.merging.config_differences import differences
from unmergeable.merging.merge import merge
from unmergeable.protection.protect import protect

KEY = Key(bytes(range(32)))
HALF = {"weight": 0.5}
NEW = {
    **{key: value for key, value in LLAMA.items() if key != "rope_theta"},
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}


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
        merge([one, two], tmp_path / "out", "linear", parameters=HALF, key=key)
    assert not (tmp_path / "out").exists()
    merged = merge(
        [one, two], tmp_path / "out", "linear", parameters=HALF, key=key, allow_mismatch=True
    )
    assert "hidden_act ('silu' and 'gelu')" in merged.notes[0]


def test_a_base_that_computes_otherwise_is_refused(tmp_path):
    one, two = pair(tmp_path, None, {"rope_theta": 5e5})
    with pytest.raises(InputError, match=r"rope_theta \(10000\.0 and 500000\.0\)"):
        merge([one], tmp_path / "out", "task_arithmetic", base=two, parameters=HALF)


def test_a_mismatch_of_shapes_cannot_be_allowed(tmp_path):
    one, _ = pair(tmp_path)
    wide = llama(tmp_path / "wide", intermediate_size=56)
    with pytest.raises(InputError, match=r"intermediate_size \(48 and 56\)") as refused:
        merge([one, wide], tmp_path / "out", "linear", parameters=HALF)
    assert "--allow-mismatch" not in str(refused.value)
    with pytest.raises(InputError, match=r"not models of one kind: .*down_proj"):
        merge([one, wide], tmp_path / "out", "linear", parameters=HALF, allow_mismatch=True)


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
