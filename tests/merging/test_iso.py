"""Iso-C and Iso-CTS against their formulas."""

import pytest
import torch

from tests.merging.small import (
    close,
    drawn,
    ingredients,
)
from unmergeable.errors import InputError
from unmergeable.merging.iso import iso_c, iso_cts
from unmergeable.merging.methods import OWN
from unmergeable.merging.svd import polar


def test_iso_c_has_equal_singular_values_and_the_sums_directions():
    deltas = [drawn(6, 8), drawn(6, 8, seed=1)]
    merged, combined = iso_c(deltas), deltas[0] + deltas[1]
    close(torch.tensor(polar(combined)[1]).float(), torch.linalg.svdvals(combined).sum())
    u, s, vh = torch.linalg.svd(combined, full_matrices=False)
    close(torch.linalg.svdvals(merged), s.mean().expand(6))
    close(merged, s.mean() * u @ vh)


@pytest.mark.parametrize("common", [0.0, 0.5, 0.8, 1.0])
def test_iso_cts_has_equal_singular_values(common):
    deltas = [drawn(10, 12), drawn(10, 12, seed=1)]
    merged = iso_cts(deltas, common)
    values = torch.linalg.svdvals(merged)
    close(values, values[:1].expand(10))
    if common == 1.0:
        close(merged, iso_c(deltas))


def test_iso_cts_is_its_formula():
    deltas = [drawn(10, 12), drawn(10, 12, seed=1)]
    u, s, vh = torch.linalg.svd(deltas[0] + deltas[1], full_matrices=False)
    u, s, vh = u[:, :8], s[:8], vh[:8]  # r=10, common 0.8, one direction for each task
    own = [torch.linalg.svd(d - u @ u.T @ d, full_matrices=False) for d in deltas]
    left = torch.cat([*(p[0][:, :1] for p in own), u], 1)
    right = torch.cat([*(p[2][:1] for p in own), vh])
    mean = torch.cat([*(p[1][:1] for p in own), s]).mean()
    a, _, b = torch.linalg.svd(left, full_matrices=False)
    c, _, d = torch.linalg.svd(right, full_matrices=False)
    close(iso_cts(deltas, 0.8), mean * a @ b @ c @ d, 1e-3)
    with pytest.raises(InputError, match=r"common is 1\.5"):
        OWN["iso_cts"](ingredients(), common=1.5)
