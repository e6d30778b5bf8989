"""No number of a config is believed before the weights are looked at."""

from __future__ import annotations

import copy
import random
import time
import tracemalloc

import pytest

from tests.architectures.moving import scene, shapes
from tests.tiny import LLAMA, llama, llama_shapes
from unmergeable.architectures.layout import Layout
from unmergeable.architectures.placing import room
from unmergeable.architectures.sizes import evaluate, holds
from unmergeable.errors import InputError, UnmergeableError
from unmergeable.protection.inspect import inspect

NUMBERS = [
    10**8, 10**12, 1e300, 10**400, 10**4000, -1, -(10**400), 0, 1.5, True, False, "x" * 10**6, "",
    None, float("nan"), float("inf"), [], [1] * 1000, [[]], {}, {"a": {"b": 1}}, "relu", "\n",
]  # fmt: skip
FAMILIES = [
    "llama", "gpt2", "bert-masked", "t5", "mixtral", "deepseek-v3", "llava-layers", "whisper",
    "falcon", "swin", "clip", "opt", "phi", "wav2vec2",
]  # fmt: skip
MUTANTS = 50
BESIDES = [
    "quantization_config", "per_layer_config", "num_nextn_predict_layers", "rope_scaling",
    "vision_feature_layer", "text_config", "vision_config", "num_hidden_layers",
    "num_attention_heads", "hidden_size", "model_type", "architectures",
]  # fmt: skip


def paths(config, before=()):
    """The way to every value of a config, through nested tables."""
    for key, value in config.items():
        yield (*before, key)
        if isinstance(value, dict):
            yield from paths(value, (*before, key))


def changed(config, path, value):
    config = copy.deepcopy(config)
    inner = config
    for key in path[:-1]:
        if not isinstance(inner.get(key), dict):
            inner[key] = {}
        inner = inner[key]
    inner[path[-1]] = value
    return config


def outcome(config, tensors):
    """What comes of a config: a layout, or an error in one short line."""
    try:
        return Layout.of(config, tensors)
    except UnmergeableError as error:
        assert len(str(error)) < 1000 and "\n" not in str(error)
        return error


@pytest.mark.parametrize("name", FAMILIES)
def test_any_value_anywhere_is_taken_or_refused_in_one_line(name):
    stage, draw = scene(name), random.Random(name)
    tensors = shapes(stage.state)
    places = [*paths(stage.saved), *((key,) for key in BESIDES)]
    for _ in range(MUTANTS):
        config = stage.saved
        for _ in range(draw.choice([1, 1, 2])):
            config = changed(config, draw.choice(places), draw.choice(NUMBERS))
        start = time.process_time()
        outcome(config, tensors)
        assert time.process_time() - start < 1


SIZES = {
    "llama": ["hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
              "num_key_value_heads", "vocab_size"],
    "mixtral": ["num_local_experts", "num_hidden_layers"],
    "t5": ["num_layers", "num_decoder_layers", "num_heads", "d_model", "d_kv"],
    "deepseek-v3": ["n_routed_experts", "n_group", "num_hidden_layers", "kv_lora_rank"],
}  # fmt: skip


@pytest.mark.parametrize("value", [10**8, 10**12, 1e300, 10**400, -3, True, "many", [2]], ids=str)
@pytest.mark.parametrize(("name", "key"), [(n, k) for n, keys in SIZES.items() for k in keys])
def test_a_size_that_the_weights_have_no_room_for_is_refused_at_once(name, key, value):
    stage = scene(name)
    start = time.process_time()
    error = outcome({**stage.saved, key: value}, shapes(stage.state))
    assert isinstance(error, InputError)
    assert time.process_time() - start < 1


def test_the_room_is_what_the_weights_leave():
    assert room({"a": (3000, 2), "b": (7,)}) == 6000
    assert room({str(n): (2,) for n in range(2000)}) == 4000
    assert room({"a": (1 << 60, 0)}) == room({}) == 1024
    assert evaluate("n", {"n": 65}, most=65) == 65
    with pytest.raises(InputError, match="have room for"):
        evaluate("n", {"n": 66}, most=65)


def test_a_folder_is_refused_with_the_key_and_the_number(tmp_path):
    folder = llama(tmp_path / "m", num_hidden_layers=2)
    text = (folder / "config.json").read_text()
    old = '"num_hidden_layers": 2'
    assert old in text
    (folder / "config.json").write_text(text.replace(old, f'"num_hidden_layers": 1{"0" * 400}'))
    with pytest.raises(InputError, match=r"num_hidden_layers.* about 401 digits") as caught:
        inspect(folder)
    assert len(str(caught.value)) < 400


def test_layers_beyond_the_folders_are_missed_one_by_one_without_a_list():
    """As many layers as the vocabulary has words: too many for a list of all tensors to be made."""
    config = {**LLAMA, "vocab_size": 4_000_000, "num_hidden_layers": 3_999_999}
    tensors = llama_shapes({**config, "num_hidden_layers": 2})
    tracemalloc.start()
    with pytest.raises(InputError, match=r"lacks the tensor 'model\.layers\.2\."):
        Layout.of(config, tensors)
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("value", ["x", [3], {"a": 1}, True, False])
def test_only_numbers_are_calculated_with(value):
    for expression in ("4 * n", "n * 1000000000000", "n + n", "n // 2", "2 - n"):
        with pytest.raises(InputError, match="no size"):
            evaluate(expression, {"n": value})


def test_what_does_not_compare_is_refused():
    for condition, config in (("'a' in n", {"n": 5}), ("n < 3", {"n": "x"}), ("n > 3", {"n": []})):
        with pytest.raises(InputError, match="do not compare"):
            holds(condition, config)
    assert holds("'a' in n", {"n": ["a"]}) and not holds("'a' in n", {"n": None})


def test_the_length_of_a_list_is_a_size():
    assert evaluate("len(n)", {"n": [5, 6, 7]}) == 3
    assert evaluate("len(n)", {"n": -2}) == 1
    assert evaluate("len(n) or 4", {}) == 4
    with pytest.raises(InputError, match="not a positive number"):
        evaluate("len(n)", {"n": []})
