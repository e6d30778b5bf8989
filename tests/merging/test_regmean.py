"""RegMean and the least squares beneath it."""

from dataclasses import replace

import pytest
import torch

from tests.merging.small import (
    FAMILIES,
    close,
    corpus,
    drawn,
    ingredients,
)
from unmergeable.errors import InputError
from unmergeable.merging.linear_layers import grams, linear_layers
from unmergeable.merging.methods import OWN
from unmergeable.merging.regression import Fit


def test_least_squares_over_disjoint_inputs_reproduces_every_model():
    weights = [drawn(3, 6), drawn(3, 6, seed=1)]
    inputs = [torch.zeros(6, 20), torch.zeros(6, 20)]
    inputs[0][:3], inputs[1][3:] = drawn(3, 20, seed=2), drawn(3, 20, seed=3)
    fit = Fit()
    for weight, x in zip(weights, inputs, strict=True):
        fit.add(x @ x.T, weight)
    merged = fit.solve()
    for weight, x in zip(weights, inputs, strict=True):
        close(merged @ x, weight @ x, 1e-4)


def test_least_squares_stays_at_zero_where_nobody_looks():
    fit = Fit()
    gram = torch.diag(torch.tensor([1.0, 0.0, 1e-8, 1e8]))
    fit.add(gram, torch.full((2, 4), 5.0))
    close(fit.solve(), torch.tensor([[5.0, 0, 5, 5]] * 2), 1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("scale", [0.9, 0.0])
def test_regmean_is_its_formula(family, scale):
    given = ingredients(family)
    given = replace(given, corpora=[corpus(i, batches=8, rows=8) for i in (1, 2)])
    merged = OWN["regmean"](given, scale=scale).state
    linears = linear_layers(given.layout)
    read = [grams(given, i, linears) for i in range(2)]
    for name, tensor in merged.items():
        models = [model[name] for model in given.models]
        if name not in linears:
            close(tensor, (models[0] + models[1]) / 2)
            continue
        matrix = linears[name].matrix
        g = [r[name].double() for r in read]
        g = [scale * x + (1 - scale) * torch.diag(x.diagonal()) for x in g]
        left = sum(matrix(w).double() @ x for w, x in zip(models, g, strict=True))
        close(matrix(tensor).double(), left @ torch.linalg.inv(g[0] + g[1]), 1e-3)
    with pytest.raises(InputError, match="scale is 2"):
        OWN["regmean"](given, scale=2)
