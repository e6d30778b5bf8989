"""Tensors offloaded in a file come back to the bit, and leave nothing behind."""

from pathlib import Path
from tempfile import gettempdir

import pytest
import torch

from unmergeable.models import file_mapping as mapping
from unmergeable.models.offloaded_state import OffloadedState


def test_parked_tensors_come_back_as_they_were_and_apart():
    draw = torch.Generator().manual_seed(0)
    state = {
        "matrix": torch.randn(7, 5, generator=draw).T,
        "half": torch.randn(3, generator=draw).bfloat16(),
        "number": torch.tensor(-0.0),
        "nothing": torch.zeros(0, 4),
        "ids": torch.arange(9),
        "large": torch.randn(300, 401, generator=draw),
        "as large": torch.randn(300, 401, generator=draw).double(),
    }
    offloaded = OffloadedState(state)
    assert list(offloaded) == list(state)
    for name, tensor in state.items():
        found = offloaded[name]
        assert found.dtype == tensor.dtype and found.equal(tensor)
        found.zero_()
        assert offloaded[name].equal(tensor)
    assert offloaded["number"].signbit()
    with pytest.raises(KeyError):
        offloaded["other"]


def test_the_file_goes_with_the_parked_tensors():
    before = _descriptors()
    offloaded = OffloadedState({"x": torch.ones(4)})
    assert _descriptors() == before + 1
    del offloaded
    assert _descriptors() == before


def test_a_large_tensor_outlives_what_it_was_looked_up_in_and_takes_no_descriptor():
    before = _descriptors(), _mapped()
    offloaded = OffloadedState({"x": torch.arange(1 << 17)})
    views = [offloaded["x"][5:] for _ in range(3)]
    assert _descriptors() == before[0] + 1 and _mapped() > before[1]
    del offloaded
    assert _descriptors() == before[0]
    assert all(view.equal(torch.arange(5, 1 << 17)) for view in views)
    views.clear()
    assert _mapped() == before[1]


@pytest.mark.parametrize("why", ["no library", "no mapping left"])
def test_without_mappings_tensors_are_read(monkeypatch, why):
    class Full:
        def mmap(self, *_):
            return mapping._FAILED

    library = None if why == "no library" else Full()
    monkeypatch.setattr(mapping, "_library", lambda: library)
    large, before = torch.arange(1 << 17), _mapped()
    offloaded = OffloadedState({"x": large})
    found = offloaded["x"]
    assert found.equal(large)
    assert _mapped() == before


def _descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def _mapped():
    """How many mappings there are of offloaded files."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return sum(f" {gettempdir()}/" in line and line.endswith("(deleted)") for line in lines)
