"""Merges are made where the models are, with the CPU's result, on a device that refuses copies."""

from dataclasses import replace

import pytest

from tests.far_device import DEVICE, far, far_device
from tests.merging.small import close
from tests.merging.test_methods import ROWS, made_for, run
from unmergeable.merging import mergekit_bridge
from unmergeable.merging.methods import OWN

KIT = {
    "breadcrumbs": {"weight": [0.5, 0.4], "density": 0.5, "gamma": 0.1},
    "dare_linear": {"weight": 0.5, "density": 0.5},
    "della": {"weight": 0.5, "density": 0.5, "epsilon": 0.2},
    "karcher": {},
    "linear": {"weight": 0.5},
    "model_stock": {},
    "nuslerp": {"weight": 0.5},
    "sce": {},
    "task_arithmetic": {"weight": 0.5},
    "ties": {"weight": 0.5, "density": 0.5},
}


def moved(given):
    """The same ingredients on the device."""
    given.runner.model.to(DEVICE)
    return replace(given, models=[far(one) for one in given.models], base=far(given.base))


def same(got, want, tolerance=1e-5):
    assert {one.device for one in got.values()} == {DEVICE}
    for name, tensor in want.items():
        close(got[name].cpu(), tensor, tolerance)


@pytest.mark.parametrize("name", ROWS)
def test_our_methods_merge_on_the_device(name, monkeypatch):
    want = run(name, made_for(name, "llama"))
    with far_device(monkeypatch):
        got = run(name, moved(made_for(name, "llama")))
        for ours, theirs in zip(
            (got.state, *got.by_model), (want.state, *want.by_model), strict=True
        ):
            same(ours, theirs, 1e-3 if "inputs" in OWN[name].needs else 1e-5)


@pytest.mark.parametrize("name", KIT)
def test_mergekits_methods_merge_on_the_device(name, monkeypatch):
    given = made_for("emr", "llama")

    def merged(base, models):
        return mergekit_bridge.merge_state_dicts(
            models, name, base=None if name in ("linear",) else base, parameters=KIT[name]
        )

    want = merged(given.base, given.models)
    with far_device(monkeypatch):
        got = merged(far(given.base), [far(one) for one in given.models])
        if name in ("dare_linear", "della"):  # a device draws numbers of its own
            assert {one.device for one in got.values()} == {DEVICE}
        else:
            same(got, want)
