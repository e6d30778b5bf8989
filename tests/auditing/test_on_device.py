"""An audit on an accelerator mixes nothing with tensors of the CPU, and its answer is the same."""

from dataclasses import replace

import pytest
import torch

from tests.auditing.scene import audited
from tests.far_device import far_device
from unmergeable.auditing import ensemble
from unmergeable.errors import DeviceError, InputError
from unmergeable.merging import mergekit_bridge

SHORT = replace(
    ensemble.DEMO,
    methods=("task_arithmetic", "emr"),
    attacks=("reset",),
    aligns=(),
    line=2,
)


def run(folder, device):
    return audited(folder, "short", device=device, cache=folder / device)


@pytest.fixture
def short(monkeypatch, tiny):
    pytest.importorskip("mergekit")
    monkeypatch.setitem(ensemble.PRESETS, "short", SHORT)


def test_the_answer_is_the_cpus(tmp_path, monkeypatch, short):
    want = run(tmp_path, "cpu")
    with far_device(monkeypatch) as seen:
        got = run(tmp_path, "far")
    assert seen["far"] > 1000  # models ran there, and merges were made there
    where = [one["provenance"]["machine"]["accelerator"] for one in (got, want)]
    assert where == ["lazy", None]
    assert got["verdict"]["answer"] == want["verdict"]["answer"]
    assert [cell["reason"] for cell in got["cells"]] == [None] * len(got["cells"])
    for ours, theirs in zip(got["cells"], want["cells"], strict=True):
        assert ours["method"] == theirs["method"]
        # this device computes in float32, and the CPU in bfloat16: an item or two may differ
        low, high = theirs["value"]["low"], theirs["value"]["high"]
        assert low - 0.1 <= ours["value"]["value"] <= high + 0.1


def test_a_device_that_is_not_there_is_said_before_anything_is_done(tmp_path, short):
    with pytest.raises(InputError, match=r"device cuda:7 (cannot be used|is not there)"):
        run(tmp_path, "cuda:7")
    assert not (tmp_path / "cuda:7").exists()


def failing(monkeypatch, error):
    """Makes one merge of mergekit's fail: its own error or a device's."""
    more = replace(SHORT, methods=(*SHORT.methods, "ties"), attacks=())
    monkeypatch.setitem(ensemble.PRESETS, "short", more)
    merge = mergekit_bridge._mergekit().merge_tensors

    def fails(tensors, method, **more):
        if method == "ties":
            raise error
        return merge(tensors, method, **more)

    monkeypatch.setattr(mergekit_bridge._mergekit(), "merge_tensors", fails)


def test_a_cell_that_ran_out_of_memory_is_measured_again(tmp_path, monkeypatch, short):
    with monkeypatch.context() as patch:
        failing(patch, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
        first = run(tmp_path, "cpu")
    reasons = {cell["method"]: cell["reason"] for cell in first["cells"]}
    assert "out of memory" in reasons["ties"]
    again = run(tmp_path, "cpu")
    assert [cell["reason"] for cell in again["cells"]] == [None] * len(again["cells"])


def test_a_lost_device_ends_the_audit_and_keeps_what_was_measured(tmp_path, monkeypatch, short):
    with monkeypatch.context() as patch:
        failing(patch, torch.AcceleratorError("CUDA error: unspecified launch failure"))
        with pytest.raises(DeviceError, match=r"lost: CUDA error.*run the same command again"):
            run(tmp_path, "cpu")
    kept = len(list((tmp_path / "cpu" / "cells").iterdir()))
    assert kept
    assert run(tmp_path, "cpu")["verdict"]["answer"] == "broken"
