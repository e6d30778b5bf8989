"""Tensors parked in a file come back to the bit, and leave nothing behind."""

from pathlib import Path

import pytest
import torch

from unmergeable.running.parked import Parked


def test_parked_tensors_come_back_as_they_were_and_apart():
    draw = torch.Generator().manual_seed(0)
    state = {
        "matrix": torch.randn(7, 5, generator=draw).T,
        "half": torch.randn(3, generator=draw).bfloat16(),
        "number": torch.tensor(-0.0),
        "nothing": torch.zeros(0, 4),
        "ids": torch.arange(9),
    }
    parked = Parked(state)
    assert list(parked) == list(state)
    for name, tensor in state.items():
        found = parked[name]
        assert found.dtype == tensor.dtype and found.equal(tensor)
        found.zero_()
        assert parked[name].equal(tensor)
    assert parked["number"].signbit()
    with pytest.raises(KeyError):
        parked["other"]


def test_the_file_goes_with_the_parked_tensors():
    before = len(list(Path("/proc/self/fd").iterdir()))
    parked = Parked({"x": torch.ones(4)})
    assert len(list(Path("/proc/self/fd").iterdir())) == before + 1
    del parked
    assert len(list(Path("/proc/self/fd").iterdir())) == before
