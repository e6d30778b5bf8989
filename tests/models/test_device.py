"""Where models run: what a user may type, and what he is told of a device that is not there."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.far_device import DEVICE, far_device
from unmergeable.auditing import memory_plan
from unmergeable.errors import InputError
from unmergeable.evaluation.scoring import precision, precision_name
from unmergeable.models import device
from unmergeable.models.device import chosen, current, device_named, placed, running_on
from unmergeable.training.config import TrainConfig
from unmergeable.training.run import _arguments


@pytest.fixture
def cards(monkeypatch):
    """A machine with two of NVIDIA's cards."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.parametrize(
    ("name", "kind", "index"),
    [("auto", "cuda", None), ("cuda", "cuda", None), ("cuda:1", "cuda", 1), ("cpu", "cpu", None)],
)
def test_what_is_typed_is_what_is_meant(cards, name, kind, index):
    found = device_named(name)
    assert (found.type, found.index) == (kind, index)


def test_without_an_accelerator_it_is_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert device_named("auto") == torch.device("cpu")
    with pytest.raises(InputError, match=r"mps cannot be used: .*Use cpu or auto"):
        device_named("mps")


@pytest.mark.parametrize("name", ["", "gpu", "cuda:x", "cuda:", "cpu:1", "mps:0", "lazy"])
def test_an_unknown_name_is_refused(cards, name):
    with pytest.raises(InputError, match="is unknown: use auto, cpu, cuda, cuda:N or mps"):
        device_named(name)


def test_a_card_too_many_is_refused(cards):
    with pytest.raises(InputError, match=r"cuda:2 is not there: this machine has cuda:0 to cuda:1"):
        device_named("cuda:2")


def test_a_driver_that_does_not_fit_is_told(monkeypatch):
    def init():
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 11000).")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "init", init)
    with pytest.raises(InputError, match=r"cuda cannot be used: .* system is too old"):
        device_named("cuda")
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None)
    with pytest.raises(InputError, match="built for the CPU alone"):
        device_named("cuda")


def test_a_choice_holds_inside_and_no_longer(cards):
    assert chosen() == "auto"
    with running_on("cuda:1"):
        assert current() == torch.device("cuda:1")
        with running_on("cpu"):
            assert current() == torch.device("cpu")
        assert chosen() == "cuda:1"
    assert chosen() == "auto"


def test_inputs_follow_the_model(monkeypatch):
    with far_device(monkeypatch):
        model = torch.nn.Linear(2, 2).to(DEVICE)
        with pytest.raises(RuntimeError, match="on one device"):
            model(torch.ones(1, 2))
        assert model(input=placed(model, {"x": torch.ones(1, 2)})["x"]).device == DEVICE


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_too_little_memory_is_said_with_need_and_have(monkeypatch, kind):
    where = torch.device(kind)
    monkeypatch.setattr(memory_plan, "available_memory", lambda: 80 * 10**9)
    for free, needs in ((24, "96.8 GB on .*24.0 GB free"), (100, "")):
        monkeypatch.setattr(memory_plan, "free_memory", lambda device, free=free: free * 10**9)
        if needs:
            with pytest.raises(InputError, match=needs):
                memory_plan.check(where, 8 * 10**9)
        else:
            memory_plan.check(where, 8 * 10**9)
            assert "224.8 GB" in memory_plan.training_lacks(where, 8 * 10**9)
    assert not memory_plan.training_lacks(where, 10**9)
    monkeypatch.setattr(memory_plan, "available_memory", lambda: 60 * 10**9)
    if kind == "cuda":
        with pytest.raises(InputError, match=r"this machine, which has 60\.0 GB free"):
            memory_plan.check(where, 8 * 10**9)


@pytest.mark.parametrize(
    ("there", "half"),
    [
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({"avx512_f": True, "avx512_bf16": True, "amx_bf16": False}, True),
        ({"amx_tile": True, "amx_bf16": True}, True),
        ({"neon": True, "bf16": True}, True),
    ],
)
def test_bfloat16_is_for_processors_that_have_it(monkeypatch, there, half):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: there)
    runner = SimpleNamespace(device=torch.device("cpu"))
    with precision(runner):
        assert torch.is_autocast_enabled("cpu") == half
    assert ("bfloat16" in precision_name(runner)) == half
    assert _arguments(Path("work"), TrainConfig(), None).bf16 == half
    assert _arguments(Path("work"), TrainConfig(precision="bfloat16"), None).bf16


def test_a_card_without_bfloat16_computes_in_float32(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert not device.computes_bfloat16(torch.device("cuda"))


def test_a_device_tells_how_much_is_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (7, 9))
    monkeypatch.setattr(device, "available_memory", lambda: 5)
    assert device.free_memory(torch.device("cuda")) == 7
    assert device.free_memory(torch.device("cpu")) == 5
