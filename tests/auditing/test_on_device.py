"""An audit on an accelerator mixes nothing with tensors of the CPU, and its answer is the same."""

from dataclasses import replace

import pytest

from tests.auditing.scene import KEY, scene, task_file
from tests.far_device import far_device
from unmergeable.attacks import fine_tune, sweep, training_data
from unmergeable.auditing import ensemble
from unmergeable.auditing.audit import audit
from unmergeable.errors import InputError

SHORT = replace(
    ensemble.DEMO,
    methods=("task_arithmetic", "emr"),
    attacks=("reset", "fine_tune"),
    aligns=(),
    line=2,
)


def run(folder, device, **more):
    found = scene()
    return audit(
        found["protected"],
        base=found["base"],
        original=found["original"],
        peers=[found["peer"]],
        tasks=task_file(folder, train=True),
        preset="short",
        key=KEY,
        cache=folder / device,
        device=device,
        **more,
    ).to_dict()


@pytest.fixture
def short(monkeypatch, tiny):
    pytest.importorskip("mergekit")
    monkeypatch.setitem(ensemble.PRESETS, "short", SHORT)
    monkeypatch.setattr(sweep, "GRID", sweep.GRID[:1])

    def learn(thief, start, lessons, plan):
        return training_data.learn(thief, start, lessons, replace(plan, stops=(2,)))

    monkeypatch.setattr(fine_tune, "learn", learn)


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
