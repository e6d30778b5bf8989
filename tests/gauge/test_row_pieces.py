"""Pieces of rows: all of them, once, and none that mixes with another piece."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.gauge.strategies import seeds
from unmergeable.gauge.axis_map import AxisMap
from unmergeable.gauge.row_pieces import row_pieces


def drawn(kind, draw):
    """A map of 24 positions: of single ones, of blocks of 4 as wholes, or a mixed one."""
    if kind == "stays":
        return None
    if kind == "single":
        return AxisMap.monomial(draw.permutation(24), draw.normal(size=24))
    order = (4 * draw.permutation(6)[:, None] + np.arange(4)).reshape(-1)
    if kind == "blocks":
        return AxisMap(order, (draw.normal(size=(6, 4, 4)),))
    return AxisMap(order, (draw.normal(size=8), draw.normal(size=(3, 4, 4)), draw.normal(size=4)))


KINDS = st.lists(st.sampled_from(["stays", "single", "blocks", "mixed"]), min_size=1, max_size=4)


@given(KINDS, st.sampled_from([1, 5, 8, 24]), seeds)
def test_pieces_side_by_side_are_the_maps_one_after_the_other(kinds, wanted, seed):
    draw = np.random.default_rng(seed)
    maps, rows = [drawn(kind, draw) for kind in kinds], draw.normal(size=(24, 3))
    exact, made = rows, np.full_like(rows, np.nan)
    for change in maps:
        exact = exact if change is None else change(exact)
    for piece in row_pieces(maps, 24, wanted):
        part = rows[piece.old]
        for change in piece.maps:
            part = part if change is None else change(part)
        assert np.isnan(made[piece.new]).all()
        made[piece.new] = part
    np.testing.assert_allclose(made, exact, rtol=1e-12)


@pytest.mark.parametrize(
    ("kinds", "wanted", "count"),
    [
        (["single", "single"], 6, 4),
        (["blocks", "stays", "blocks"], 8, 3),
        (["blocks", "blocks"], 1, 6),  # what mixes stays together
        (["blocks", "single", "blocks"], 8, 1),  # single positions leave no block for itself
    ],
)
def test_how_many_pieces_there_are(kinds, wanted, count):
    draw = np.random.default_rng(0)
    pieces = list(row_pieces([drawn(kind, draw) for kind in kinds], 24, wanted))
    assert len(pieces) == count
