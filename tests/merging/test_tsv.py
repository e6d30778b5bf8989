"""TSV-Merge against its formula."""

import pytest
import torch

from tests.merging.small import (
    bases,
    close,
    drawn,
    ingredients,
)
from unmergeable.merging.methods import OWN
from unmergeable.merging.tsv import tsv


@pytest.mark.parametrize("shape", [(8, 10), (10, 8)])
def test_tsv_of_orthogonal_low_rank_task_vectors_is_their_sum(shape):
    u, v = bases(*shape)
    deltas = [
        (u[:, :4] * torch.tensor([4.0, 3, 2, 1])) @ v[:, :4].T,
        (u[:, 4:8] * torch.tensor([5.0, 2, 2, 1])) @ v[:, 4:8].T,
    ]
    close(tsv(deltas, [1.0, 1.0]), deltas[0] + deltas[1])
    close(tsv(deltas, [0.5, 2.0]), 0.5 * deltas[0] + 2 * deltas[1])


def test_tsv_is_its_formula():
    deltas = [drawn(6, 8, seed=i) for i in range(3)]
    parts = [torch.linalg.svd(delta, full_matrices=False) for delta in deltas]
    u, _, x = torch.linalg.svd(torch.cat([p[0][:, :2] for p in parts], 1), full_matrices=False)
    y, _, vh = torch.linalg.svd(torch.cat([p[2][:2] for p in parts]), full_matrices=False)
    wanted = u @ x @ torch.diag(torch.cat([p[1][:2] for p in parts])) @ y @ vh
    close(tsv(deltas, [1.0] * 3), wanted, 1e-3)


def test_tsv_of_one_model_is_that_model():
    given = ingredients("gpt2", count=1)
    merged = OWN["tsv"](given).state
    for name in merged:
        close(merged[name], given.models[0][name], 1e-4)
