"""Dense blocks are taken apart as far as they may be, and give what the whole gives."""

from __future__ import annotations

import numpy as np
import pytest

from unmergeable.gauge.axis_map import AxisMap
from unmergeable.gauge.dense_runs import dense_runs
from unmergeable.gauge.groups import Rotary

RANDOM = np.random.default_rng(0)


def turns(size: int, *, interleaved: bool) -> AxisMap:
    """Each rotary plane times a complex number."""
    numbers = RANDOM.normal(size=size // 2) + 1j * RANDOM.normal(size=size // 2)
    return Rotary("planes", interleaved=interleaved).element(size, numbers)


def dense(size: int) -> AxisMap:
    """A block without zeros."""
    return AxisMap.block(RANDOM.normal(size=(size, size)))


def uneven() -> AxisMap:
    """A block of twelve in which five positions mix, four, and three."""
    matrix = np.zeros((12, 12))
    for part in (slice(0, 5), slice(5, 9), slice(9, 12)):
        size = part.stop - part.start
        matrix[part, part] = RANDOM.normal(size=(size, size))
    return AxisMap.block(matrix)


def chain() -> AxisMap:
    """A block of nine, whose mixing is seen from two of its positions only step by step."""
    matrix = np.eye(9)
    for near in range(2):
        for first in range(3):
            matrix[first + 3 * near, first + 3 * near + 3] = 1.0  # to one side: not symmetric
    return AxisMap.block(matrix)


CASES = {
    "rotary half": (AxisMap.joined([turns(8, interleaved=False) for _ in range(3)]), [2]),
    "rotary interleaved": (turns(8, interleaved=True), [2]),
    "dense": (AxisMap.joined([dense(4), dense(4)]), [4]),
    "uneven": (uneven(), [12]),
    "chain": (chain(), [3]),
    "empty": (AxisMap(np.arange(4), (np.empty(0), *dense(4).factors)), [4]),
    "scales between": (
        AxisMap.joined(
            [
                turns(8, interleaved=False),
                AxisMap.monomial(np.arange(5), RANDOM.normal(size=5)),
                dense(4),
            ]
        ),
        [2, 1, 4],
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("wanted", [1, 3, 1000])
def test_the_parts_make_what_the_whole_makes(name: str, wanted: int) -> None:
    """Whatever is asked for at a time, and wherever the stretch lies."""
    change, widths = CASES[name]
    rows = RANDOM.normal(size=(change.size, 3))
    runs = dense_runs(change)
    assert [1 if run.factor.ndim == 1 else run.factor.shape[1] for run in runs] == widths
    found = np.full_like(rows, np.nan)
    cuts = change.cuts(1)
    middle = cuts[len(cuts) // 2]
    for start, stop in ((0, middle), (middle, change.size)):
        for run in runs:
            for places, factor in run.blocks(start, stop, wanted):
                assert start <= places.min() <= places.max() < stop
                assert len(places) <= max(wanted, 1 if factor.ndim == 1 else factor.shape[1])
                here = rows[change.source[places]]
                if factor.ndim == 1:
                    found[places] = here * factor[:, None]
                else:
                    blocks = len(factor), -1, 3
                    found[places] = (factor @ here.reshape(blocks)).reshape(-1, 3)
    np.testing.assert_allclose(found, change(rows), rtol=1e-12, atol=1e-12)
