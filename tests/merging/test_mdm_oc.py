"""MDM-OC against Gram-Schmidt on whole deltas."""

from dataclasses import replace

import pytest
import torch

from tests.merging.small import (
    close,
    ingredients,
)
from unmergeable.errors import InputError
from unmergeable.merging.learning import answered
from unmergeable.merging.mdm_oc import remove
from unmergeable.merging.methods import OWN


def flat(state, base):
    return torch.cat([(state[n].double() - base[n].double()).flatten() for n in base])


@pytest.mark.parametrize("order", [None, [0, 1, 2], [2, 0, 1]])
def test_mdm_oc_is_gram_schmidt_in_the_given_order(order):
    given = ingredients("llama", count=3)
    deltas = [flat(model, given.base) for model in given.models]
    wanted = {}
    for index in order or range(3):
        rest = deltas[index]
        for earlier in wanted.values():
            rest = rest - (deltas[index] @ earlier) / (earlier @ earlier) * earlier
        wanted[index] = rest
    for i in range(3):
        for j in range(i):
            assert abs(wanted[i] @ wanted[j]) < 1e-9
    merged = OWN["mdm_oc"](given, order=order, weight=[0.5, 1, 2]).state
    total = 0.5 * wanted[0] + wanted[1] + 2 * wanted[2]
    close(flat(merged, given.base), total, 1e-5)
    for index, weight in enumerate((0.5, 1, 2)):
        rest = remove(given, merged, index, order=order, weight=[0.5, 1, 2])
        close(flat(rest, given.base), total - weight * wanted[index], 1e-5)


def test_mdm_oc_gives_nothing_for_a_delta_that_is_there_already():
    given = ingredients("llama")
    given = replace(given, models=[given.models[0], given.models[0]])
    merged = OWN["mdm_oc"](given).state
    assert all(torch.allclose(merged[n], given.models[0][n], atol=1e-6) for n in merged)
    with pytest.raises(InputError, match=r"order is \[0, 0\]: give each model from 0 to 1 once"):
        OWN["mdm_oc"](given, order=[0, 0])


@pytest.mark.parametrize("labels", [True, False])
def test_mdm_oc_learns_its_coefficients_if_asked(labels):
    given = ingredients("llama", labels=labels)
    corpus = given.corpora[0]

    def loss(state):
        given.runner.load_state(state)
        with torch.no_grad():
            return sum(
                answered(corpus.task.logits(given.runner.model, batch), batch, 0)
                for corpus in given.corpora
                for batch in corpus.batches
            )

    assert corpus.batches
    start, end = (OWN["mdm_oc"](given, steps=steps, rate=0.05).state for steps in (0, 15))
    assert loss(end) < loss(start)
