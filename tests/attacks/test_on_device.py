"""Attacks run where the models are, on a device that refuses silent copies of the CPU's tensors."""

from dataclasses import replace
from itertools import islice

import pytest

from tests.attacks.test_synthetic_inputs import judged
from tests.attacks.test_training_attacks import merged, scene
from tests.far_device import DEVICE, far, far_device
from unmergeable.attacks import (
    coefficients,
    distil,
    fine_tune,
    pull_back_gradient,
    sweep,
    training_data,
)
from unmergeable.attacks.ladder import CEILINGS, LADDER
from unmergeable.training import loop

# One of each kind: the same code reads every kind of text.
ONE_OF_EACH = [attack for attack in (*LADDER, *CEILINGS) if attack.texts in ("", "in-domain")]


@pytest.mark.parametrize("attack", ONE_OF_EACH, ids=lambda attack: attack.name)
def test_an_attack_runs_where_the_models_are(attack, monkeypatch):
    monkeypatch.setattr(sweep, "GRID", sweep.GRID[:1])

    def learn(thief, start, lessons, plan):
        return training_data.learn(thief, start, lessons, replace(plan, stops=(1,)))

    for module in (distil, fine_tune):
        monkeypatch.setattr(module, "learn", learn)
    monkeypatch.setattr(coefficients, "STEPS", 2)
    monkeypatch.setattr(
        pull_back_gradient, "train", lambda *given, **more: loop.train(*given[:4], (2,), **more)
    )
    full, released = scene()
    thief = replace(full, validation=judged()[0].validation)
    with far_device(monkeypatch):
        there = [far(state) for state in (thief.base, *thief.peers, released)]
        thief.runner.model.to(DEVICE)
        try:
            moved = replace(thief, base=there[0], peers=there[1:-1], judge=lambda state: 0.5)
            assert not attack.suits(moved)
            start = there[-1]
            if attack.after is not None:
                found = attack.after(moved, start, merged(moved, start))
            else:
                found = (attack.before or attack.instead)(moved, start)
            variants = list(islice(found, 1))
            assert {tensor.device for one in variants for tensor in one.state.values()} == {DEVICE}
        finally:
            thief.runner.model.to("cpu")
            thief.runner.load_state(thief.base)
