"""Why a tensor fits no row: the message names the cause, not a line of a data file."""

from __future__ import annotations

import re

import pytest

from tests.architectures.moving import scene, shapes
from unmergeable.architectures.layout import Layout
from unmergeable.errors import InputError, UnmergeableError, UnsupportedError

NAMES = ["llama", "gpt2", "bert-masked", "t5", "mixtral", "llava", "whisper", "distilbert-masked"]


def between(part, level):
    """Puts a part into the names of what lies in layers: after so many of their own parts."""

    def put(name):
        parts = name.split(".")
        at = next((n for n, one in enumerate(parts) if one.isdigit()), None)
        return name if at is None else ".".join([*parts[: at + level], part, *parts[at + level :]])

    return put


WRAPS = {
    "module.": "module.{}",
    "_orig_mod.": "_orig_mod.{}",
    "base_model.model.": "base_model.model.{}",
    "student.": "student.{}",
    "net.encoder.": "net.encoder.{}",
    "module._orig_mod.": "module._orig_mod.{}",
    "_orig_mod.module.": "_orig_mod.module.{}",
    "module.student.": "module.student.{}",
    "_fsdp_wrapped_module.": between("_fsdp_wrapped_module", 1),
    "_checkpoint_wrapped_module.": between("_checkpoint_wrapped_module", 1),
    "base_layer.": between("base_layer", 2),
    "module.model._checkpoint_wrapped_module.": lambda name: (
        "module." + between("_checkpoint_wrapped_module", 1)(name)
    ),
    "student._orig_mod.": lambda name: "student." + between("_orig_mod", 1)(name),
}


def refusal(config, tensors):
    with pytest.raises(UnmergeableError) as caught:
        Layout.of(config, tensors)
    text = str(caught.value)
    assert len(text) < 1000 and "\n" not in text
    return text


@pytest.mark.parametrize("named", [True, False], ids=["class", "no class"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("wrap", WRAPS)
def test_a_wrappers_prefix_is_named(name, wrap, named):
    stage, put = scene(name), WRAPS[wrap]
    put = put if callable(put) else put.format
    config = stage.saved if named else {**stage.saved, "architectures": None}
    tensors = {put(key): shape for key, shape in shapes(stage.state).items()}
    text = refusal(config, tensors)
    assert ".toml" not in text
    if named or "names no model class" not in text:  # a head outside all layers is met first
        said = re.search("the prefix '(.*?)'", text)
        parts = said[1].split(".") if said else ["base_layer"] * ("PEFT adapter" in text)
        assert parts and set(parts) <= {*wrap.split("."), ""}
        assert "unwrapped" in text


@pytest.mark.parametrize(("name", "twice"), [("gpt2", "transformer."), ("llama", "model.")])
def test_a_trunk_twice_is_a_prefix_too(name, twice):
    """Lightning's `model.` before every name, head included."""
    stage = scene(name)
    tensors = {twice + key: shape for key, shape in shapes(stage.state).items()}
    assert f"the prefix {twice!r}" in refusal(stage.saved, tensors)


def test_the_advice_is_that_of_the_wrapper():
    stage = scene("llama")
    for prefix, advice in (
        ("module.", "model.module"),
        ("_orig_mod.", "model._orig_mod"),
        ("base_model.model.", "merge_and_unload"),
        ("teacher.", "the model inside the wrapper"),
    ):
        tensors = {prefix + key: shape for key, shape in shapes(stage.state).items()}
        assert advice in refusal(stage.saved, tensors)


def test_an_adapter_that_was_not_merged_is_named():
    stage, tensors = scene("llama"), {}
    for key, shape in shapes(stage.state).items():
        start = "base_model.model." + key.removesuffix(".weight")
        if key.endswith("q_proj.weight"):
            tensors[f"{start}.lora_A.default.weight"] = (2, 24)
            tensors[f"{start}.lora_B.default.weight"] = (24, 2)
            tensors[f"{start}.base_layer.weight"] = shape
        else:
            tensors["base_model.model." + key] = shape
    assert "PEFT adapter" in refusal(stage.saved, tensors)
    extra = shapes(stage.state) | {"model.layers.0.self_attn.q_proj.lora_A.weight": (2, 24)}
    assert "merge_and_unload" in refusal(stage.saved, extra)


def test_a_part_that_stands_beside_the_model_is_no_prefix():
    """A second attention whose names would fit without one part of them."""
    stage = scene("llama")
    own = shapes(stage.state)
    for start in ("model.layers.0.cross.self_attn", "extra.layers.0.self_attn"):
        more = {f"{start}.{one}_proj.weight": (24, 24) for one in "qkvo"}
        text = refusal(stage.saved, own | more)
        assert "nobody has declared" in text and "llama.toml" in text and "prefix" not in text


def ahead(tensors, count, more):
    """One layer more, a copy of the last, with some tensors of its own."""
    last, new = f"layers.{count - 1}.", f"layers.{count}."
    copies = {key.replace(last, new): shape for key, shape in tensors.items() if last in key}
    return tensors | copies | {f"model.{new}{key}": shape for key, shape in more.items()}


@pytest.mark.parametrize("key", ["num_nextn_predict_layers", "num_mtp_layers", None])
@pytest.mark.parametrize("name", ["deepseek-v2", "llama", "qwen3-moe"])
def test_a_layer_that_predicts_further_tokens_is_named(name, key):
    stage = scene(name)
    count = stage.saved["num_hidden_layers"]
    config = stage.saved | ({key: 1} if key else {})
    for more in ({"eh_proj.weight": (24, 48), "enorm.weight": (24,)}, {}):
        text = refusal(config, ahead(shapes(stage.state), count, more))
        assert ".toml" not in text and f"layers.{count}." in text and "save it again" in text
        if key and more:
            assert re.search(r"num_\w+_layers 1\b", text) and "multi-token prediction" in text


@pytest.mark.parametrize("key", ["mtp.fc.weight", "model.mtp_layers.0.norm.weight"])
def test_what_is_named_after_further_tokens_is_named(key):
    stage = scene("qwen3-moe")
    text = refusal(stage.saved, shapes(stage.state) | {key: (24,)})
    assert "multi-token prediction" in text and ".toml" not in text


@pytest.mark.parametrize(
    "name", ["llama", "gpt2-untied", "bert-masked", "t5-classifier", "vit-classifier"]
)
@pytest.mark.parametrize("empty", [None, [], [None], [""]], ids=str)
def test_a_head_without_a_class_asks_for_the_class(name, empty):
    stage = scene(name)
    config = {key: value for key, value in stage.saved.items() if key != "architectures"}
    for given in (config, {**config, "architectures": empty}):
        with pytest.raises(InputError, match="names no model class") as caught:
            Layout.of(given, shapes(stage.state))
        assert '"architectures": ["' in str(caught.value) and ".toml" not in str(caught.value)


def test_a_head_of_another_class_is_told_apart():
    stage = scene("llama-classifier")
    config = {**stage.saved, "architectures": ["LlamaForCausalLM"]}
    with pytest.raises(UnsupportedError, match="one of LlamaForSequenceClassification") as caught:
        Layout.of(config, shapes(stage.state))
    assert '"architectures"' in str(caught.value) and ".toml" not in str(caught.value)


HOSTILE = [
    "model.layers.%s.self_attn.q_proj.weight" % ("9" * 5000),
    "model.layers.999999999.self_attn.q_proj.weight",
    "", ".", "." * 1000, "a." * 100_000, "module." * 50 + "x", "\n\n", "\ud800", "x" * 10**6,
    "mtp." * 100, "model.layers.-1.x", f"model.layers.{10**30}.eh_proj.weight", "a.lora_A.",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("shape", [(), (24, 24), (1,) * 10_000, (1 << 62, 0)], ids=len)
def test_any_name_gets_one_short_line(name, shape):
    stage = scene("llama")
    refusal(stage.saved, {**shapes(stage.state), name: shape})
    refusal({**stage.saved, "architectures": []}, {name: shape})
