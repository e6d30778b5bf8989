"""Dropping by selection against mergekit's sorting, equal magnitudes at every end included."""

import pytest
import torch
from mergekit import sparsify

from unmergeable.merging import mergekit_pieces
from unmergeable.merging.magnitudes import drop_outside

WAYS = {"magnitude": {}, "magnitude_outliers": {"gamma": 0.1}}


def vector(values):
    """A task vector of 600 numbers with so many different magnitudes."""
    draw = torch.Generator().manual_seed(values)
    drawn = torch.randint(-values, values + 1, (30, 20), generator=draw)
    return drawn.double() / 7


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("values", [1, 3, 50, 10**9])
@pytest.mark.parametrize("density", [0.0, 1e-6, 0.05, 0.3, 0.5, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("norm", [None, sparsify.RescaleNorm.l1])
def test_keeps_what_sorting_keeps_up_to_the_choice_among_equals(way, density, values, dtype, norm):
    given = vector(values).to(dtype)
    own = WAYS[way] | {"density": density}
    theirs = sparsify.sparsify(
        given, method=sparsify.SparsificationMethod(way), rescale_norm=norm, **own
    )
    ranks = mergekit_pieces._ranks(given.numel(), way, **own)
    ours = given.clone()
    if ranks:
        ours = drop_outside(ours, *ranks, rescale=norm is not None)
    same = {"rtol": 0, "atol": 0} if norm is None else {"rtol": 1e-6, "atol": 0}
    torch.testing.assert_close(
        ours.abs().flatten().sort()[0], theirs.abs().flatten().sort()[0], **same
    )
    if values == 10**9:
        torch.testing.assert_close(ours, theirs, **same)
    kept = ours != 0
    scale = 1.0 if norm is None or not kept.any() else float((ours[kept] / given[kept])[0])
    torch.testing.assert_close(ours[kept], given[kept] * scale, rtol=1e-6, atol=0)


def test_among_equal_magnitudes_the_first_stay():
    given = torch.tensor([[1.0, -2.0, 2.0], [2.0, -1.0, 3.0]])
    drop_outside(given, 3, 5, rescale=False)
    assert given.tolist() == [[0.0, 0.0, 2.0], [2.0, 0.0, 0.0]]
    given = torch.tensor([[1.0, -2.0, 2.0], [2.0, -1.0, 3.0]])
    drop_outside(given, 1, 4, rescale=False)
    assert given.tolist() == [[0.0, -2.0, 2.0], [0.0, -1.0, 0.0]]
