"""KnOTS: the shared space, and TIES in it."""

import pytest
import torch

from tests.merging.small import (
    bases,
    close,
    drawn,
    ingredients,
)
from unmergeable.errors import InputError
from unmergeable.merging.knots import _cut, in_shared_space, merge_deltas
from unmergeable.merging.linear_layers import linear_layers
from unmergeable.merging.methods import OWN


def test_knots_of_orthogonal_adapters_is_their_sum():
    u, v = bases(8, 10)
    layers = {
        "one": [u[:, :2] @ drawn(2, 2) @ v[:, :2].T, u[:, 2:4] @ drawn(2, 2, seed=1) @ v[:, 2:4].T],
    }
    # each fills half of the shared space; what TIES trims is the rounding in the other half
    for by in ("ties", "sum"):
        merged = merge_deltas(layers, weight=1.0, keep=0.5, by=by)
        close(merged["one"], layers["one"][0] + layers["one"][1], 1e-4)


def test_the_shared_space_brings_every_delta_back():
    parts = [drawn(5, 7), drawn(5, 7, seed=1), torch.zeros(5, 7)]
    u, shared = in_shared_space(parts)
    close(u.T @ u, torch.eye(5))
    for part, coordinates in zip(parts, shared, strict=True):
        close(u @ coordinates, part, 1e-4)
    assert merge_deltas({"zero": [torch.zeros(2, 3)] * 2}, keep=0.5)["zero"].abs().max() == 0
    assert merge_deltas({}) == {}


def test_knots_ties_trims_over_all_layers_and_elects_signs():
    """With one direction the shared space is the input itself, up to a sign."""
    rows = [torch.tensor([[4.0, 0.1, 2, -1]]), torch.tensor([[-1.0, 3, 2, 0.2]])]
    layers = {"a": rows, "b": [torch.tensor([[0.3]]), torch.tensor([[5.0]])]}
    merged = merge_deltas(layers, weight=1.0, keep=0.6)
    # of five numbers the three largest stay: 4, 2, -1 and 3, 2, 5
    close(merged["a"], torch.tensor([[4.0, 3, 2, -1]]))
    close(merged["b"], torch.tensor([[5.0]]))
    for wrong in ({"keep": 0}, {"keep": 2}, {"by": "magic"}):
        with pytest.raises(InputError, match="knots got"):
            merge_deltas(layers, **wrong)


def test_knots_sum_on_whole_models_is_task_arithmetic():
    given = ingredients("gpt2")
    merged = OWN["knots"](given, by="sum", weight=0.5).state
    for name in linear_layers(given.layout):
        close(merged[name], (given.models[0][name] + given.models[1][name]) / 2)


@pytest.mark.parametrize("keep", [1e-9, 0.2, 0.5, 0.999, 1.0])
def test_the_cut_is_the_order_statistic_of_all_layers_together(keep):
    parts = [drawn(30, 7), 1e-3 * drawn(5, 5, seed=1).round(decimals=1), torch.zeros(4, 4)]
    flat = torch.cat([part.flatten().abs() for part in parts])
    kept = max(1, int(len(flat) * keep))
    assert _cut(lambda: parts, keep) == float(flat.sort(descending=True).values[kept - 1])
    assert _cut(list, keep) == 0.0
