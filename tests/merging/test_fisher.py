"""Fisher merging against Fisher information summed over items and answers."""

from dataclasses import replace

import pytest
import torch

from tests.merging.small import (
    CLASSES,
    close,
    corpus,
    ingredients,
)
from unmergeable.errors import InputError
from unmergeable.merging.fisher import diagonal
from unmergeable.merging.methods import OWN


def test_the_fisher_of_single_items_is_exact():
    given = ingredients("gpt2", count=1)
    given = replace(given, corpora=[corpus(1, batches=3, rows=1)])
    found = diagonal(given, 0)
    model, task = given.runner.model, given.corpora[0].task
    wanted = {name: torch.zeros_like(tensor) for name, tensor in found.items()}
    parameters = dict(model.named_parameters())
    for parameter in parameters.values():
        parameter.requires_grad_(True)
    for batch in given.corpora[0].batches:
        logs = task.logits(model, batch).log_softmax(1)[0]
        for label in range(CLASSES):
            grads = torch.autograd.grad(
                logs[label], list(parameters.values()), retain_graph=True, allow_unused=True
            )
            for name, grad in zip(parameters, grads, strict=True):
                if name in wanted and grad is not None:
                    wanted[name] += logs[label].exp().detach() * grad.square() / 3
    for name, tensor in wanted.items():
        torch.testing.assert_close(found[name], tensor, rtol=5e-3, atol=1e-9)
    assert "transformer.wte.weight" in found  # tied to the head


@pytest.mark.parametrize("classes", [64, 2])
def test_the_fisher_of_larger_batches_has_the_same_expectation(monkeypatch, classes):
    from unmergeable.merging import fisher

    given = ingredients("llama", count=1)
    batch = corpus(1, batches=1, rows=3).batches[0]
    single = [
        replace(batch, inputs={"input_ids": batch.inputs["input_ids"][i : i + 1]}, items=(i,))
        for i in range(3)
    ]
    task = given.corpora[0].task
    exact = diagonal(replace(given, corpora=[replace(given.corpora[0], batches=single)]), 0)
    monkeypatch.setattr(fisher, "_CLASSES", classes)
    together = replace(given, corpora=[replace(given.corpora[0], batches=[batch])])
    found = diagonal(together, 0, draws=100)
    assert task is not None
    for name, tensor in exact.items():
        assert abs(float(found[name].sum() / tensor.sum()) - 1) < 0.3, name


def test_fisher_merging_of_equal_fishers_is_the_average():
    """Two models far alike have like Fishers; below the floor any two are alike."""
    given = ingredients("llama")
    merged = OWN["fisher"](given, floor=1e6).state
    uneven = OWN["fisher"](given, floor=1e6, weight=[3, 1]).state
    for name, tensor in merged.items():
        a, b = (model[name] for model in given.models)
        close(tensor, (a + b) / 2)
        close(uneven[name], 0.75 * a + 0.25 * b)


def test_fisher_merging_is_its_formula():
    given = ingredients("gpt2")
    merged = OWN["fisher"](given, weight=[1, 2], normalise=False, floor=1e-12, draws=1).state
    fishers = [diagonal(given, i) for i in range(2)]
    for name, tensor in merged.items():
        weights = [(i + 1) * fishers[i][name].clamp_min(1e-12) for i in range(2)]
        top = sum(w * m[name] for w, m in zip(weights, given.models, strict=True))
        close(tensor, top / sum(weights), 1e-4)
    with pytest.raises(InputError, match="fisher got draws=0"):
        OWN["fisher"](given, draws=0)
    with pytest.raises(InputError, match="not finite"):
        broken = {n: t * torch.inf for n, t in given.base.items()}
        diagonal(replace(given, models=[broken, broken]), 0)
