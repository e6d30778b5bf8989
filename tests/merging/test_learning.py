"""Coefficients learnt by gradient descent: AdaMerging and NeuLig's stand-in."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from tests.merging.small import (
    CLASSES,
    FAMILIES,
    answers,
    close,
    ingredients,
    mean_loss,
)
from unmergeable.errors import InputError
from unmergeable.merging.learning import Mixture, entropy
from unmergeable.merging.methods import OWN
from unmergeable.merging.neulig import ensemble
from unmergeable.merging.task_vectors import deltas


@pytest.mark.parametrize("name", ["adamerging", "adamerging_task"])
@pytest.mark.parametrize("family", FAMILIES)
def test_adamerging_lowers_the_entropy(name, family):
    given = ingredients(family)
    start, end = (OWN[name](given, steps=steps, rate=0.02).state for steps in (0, 15))
    for key, tensor in start.items():
        wanted = sum(0.3 * (model[key] - given.base[key]) for model in given.models)
        close(tensor, given.base[key] + wanted)
    assert mean_loss(given, end, entropy) < mean_loss(given, start, entropy)


@pytest.mark.parametrize("by_tensor", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_by_coefficients_are_autograds(family, by_tensor):
    given = ingredients(family)
    given = replace(given, corpora=[replace(c, batches=c.batches[:1]) for c in given.corpora])
    mixture = Mixture(
        given, partial(deltas, given), [0.3, 0.3], group=lambda name: name if by_tensor else None
    )
    batches = [corpus.batches[0] for corpus in given.corpora]
    found = mixture._gradient(entropy, batches)
    alpha = mixture.alpha.float().requires_grad_(True)

    def pairs(name):
        return zip(alpha[mixture.row[name]], deltas(given, name), strict=True)

    state = {
        name: tensor + sum(a * d for a, d in pairs(name)) for name, tensor in given.base.items()
    }
    model, task = given.runner.model, given.corpora[0].task
    total = 0
    for batch in batches:
        out = torch.func.functional_call(model, state, kwargs=dict(batch.inputs))
        total = total + entropy(out.logits[:, -1, :CLASSES], batch, 0)
    (wanted,) = torch.autograd.grad(total, alpha)
    assert task is not None
    torch.testing.assert_close(found.float(), wanted, rtol=1e-3, atol=1e-5)


def test_adamerging_prefers_the_useful_expert():
    """Of an expert that answers surely and one that makes all answers alike."""
    given = ingredients("llama")
    sure = {n: t * 4 if n == "model.norm.weight" else t for n, t in given.base.items()}
    dull = {n: t * 0 if n == "model.norm.weight" else t for n, t in given.base.items()}
    given = replace(given, models=[sure, dull])
    mixture = Mixture(given, partial(deltas, given), [0.3, 0.3])
    first, second = mixture.learn(entropy, 10, 0.02)[0].tolist()
    assert first > 0.3 > second


def test_the_ensembles_coefficients_come_from_its_answers():
    given = ingredients("llama", size=0.05)
    given = replace(given, models=[given.models[0], dict(given.base)])
    wanted = ensemble(given)
    batch = given.corpora[0].batches[0]
    probabilities = [answers(given, model, batch).softmax(1) for model in given.models]
    close(wanted[id(batch)], sum(probabilities) / 2)

    def distance(out, batch, index):
        teacher = wanted[id(batch)]
        return (teacher * (teacher.log() - out.log_softmax(1))).sum(1).mean()

    start, end = (OWN["neulig"](given, steps=steps).state for steps in (0, 20))
    for key in start:
        close(start[key], (given.models[0][key] + given.base[key]) / 2)
    assert mean_loss(given, end, distance) <= mean_loss(given, start, distance)


def test_an_ensemble_of_one_is_that_model():
    given = ingredients("llama", count=1)
    merged = OWN["neulig"](given, steps=3).state
    for key, tensor in merged.items():
        close(tensor, given.models[0][key], 1e-2)


@pytest.mark.parametrize("name", ["adamerging", "neulig"])
def test_settings_out_of_range_are_refused(name):
    for wrong in ({"steps": -1}, {"rate": 0}):
        with pytest.raises(InputError, match="got steps="):
            OWN[name](ingredients(), **wrong)
