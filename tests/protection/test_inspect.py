"""Inspect: what it says of a model, from headers alone."""

import math
import os

import pytest

from tests.tiny import LLAMA, llama, llama_shapes
from unmergeable.errors import InputError, UnsupportedError
from unmergeable.keys.key import Key
from unmergeable.protection.inspect import inspect
from unmergeable.protection.protect import protect

KEY = Key(bytes(32))


def test_a_report_counts_weights_tensors_and_secret(tmp_path):
    report = inspect(llama(tmp_path / "m", "BF16", shards=2))
    shapes = llama_shapes()
    assert (report.family, report.model_class) == ("Llama", "LlamaForCausalLM")
    assert report.parameters == sum(math.prod(shape) for shape in shapes.values())
    assert report.dtypes == {"BF16": 2 * report.parameters}
    assert sum(kind.count for kind in report.tensors) == len(shapes)
    assert report.manifest is None
    spaces = {space.name: space for space in report.spaces}
    assert spaces["residual"].bits == pytest.approx(math.log2(math.factorial(32)) + 32)
    assert spaces["ffn"].bits == pytest.approx(2 * (math.log2(math.factorial(48)) + 48))
    assert [spaces[name].instances for name in ("residual", "group", "query", "vo", "ffn")] == [
        1,
        2,
        4,
        4,
        2,
    ]
    assert spaces["vocab"].fixed and not spaces["vocab"].group
    assert report.bits == pytest.approx(sum(space.bits for space in report.spaces))


def test_a_report_agrees_with_protect(tmp_path):
    model = llama(tmp_path / "m", "F16")
    (model / "x.bin").write_bytes(b"")
    before = inspect(model)
    done = protect(model, tmp_path / "out", KEY)
    assert {s.name: s.bits for s in before.spaces if s.group} == pytest.approx(done.bits["lock"])
    assert before.left_out == done.left_out == ("x.bin",)
    after = inspect(tmp_path / "out")
    assert after.manifest == done.manifest
    assert after.spaces == before.spaces


def test_no_weight_is_read(tmp_path, monkeypatch):
    model = llama(tmp_path / "m")

    def read(*args):
        raise AssertionError("a weight was read")

    monkeypatch.setattr(os, "preadv", read)
    inspect(model)


def test_bad_models_are_refused_as_by_protect(tmp_path):
    with pytest.raises(UnsupportedError, match="mamba"):
        inspect(llama(tmp_path / "a", model_type="mamba"))
    with pytest.raises(InputError, match="is not a folder"):
        inspect(llama(tmp_path / "b") / "config.json")
    assert LLAMA["model_type"] == "llama"
