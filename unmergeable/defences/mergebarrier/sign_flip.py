"""The attention part of MergeBarrier-style protection: sign flips along leading directions.

For the coordinates of one head (one key-value group, where several query heads share their keys),

    G = sum over query heads of W_Q W_Q^T, plus W_K W_K^T = V L V^T
    P = V diag(-1 .. -1, 1 .. 1) V^T

with -1 on the k leading eigenvectors and biases as a further column. P goes on queries and keys
alike; it is orthogonal and symmetric, so that it cancels in their product. Among all such flips of
k directions it moves the weights most: the squared distance is 4 times the sum of the k leading
eigenvalues.

On rotary spaces only what commutes with the rotations is exact: -1 on the planes of largest energy.
That restriction is ours; no source says what MergeBarrier does there. It is also lossless.

It hides nothing. G of the protected weights is P G P = G, for both have the same eigenvectors: so
anyone who has the protected model computes P as the owner did, without key and without base. What
it does is displace, and only until somebody looks.

Reconstructed from the abstract of "Do Not Merge My Model!" (arXiv 2511.10712) and secondary
sources; the paper's code was not seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from unmergeable.architectures.layout import Layout
from unmergeable.errors import InputError, UnsupportedError
from unmergeable.gauge.axis_blocks import blocks
from unmergeable.gauge.axis_map import AxisMap, Float
from unmergeable.gauge.groups import Linear, Rotary
from unmergeable.gauge.notation import Gauge, Space

SPACE = "qk"
Values = Callable[[str], npt.NDArray[Any]]


def attention_gauge(layout: Layout, values: Values, directions: int) -> Gauge:
    """The flip on each instance of the query-key space; the identity on every other space.

    Args:
        layout: the model's.
        values: a tensor's numbers by name, float64, in the shape in which it is stored.
        directions: k, how many directions to flip in each head. A rotary plane counts as two; an
            odd k is rounded down there, but to no less than one plane.

    Raises:
        UnsupportedError: an architecture without such a space, or with another group on it.
        InputError: k out of range.
    """
    space = layout.spaces.get(SPACE)
    if space is None or space.size is None or space.group is None:
        raise UnsupportedError(f"{layout.family} has no query-key space that can move.")
    if not 1 <= directions < space.size:
        raise InputError(
            f"directions={directions}: choose from 1 to {space.size - 1}. All of a head's "
            f"{space.size} would be minus the identity, which anybody guesses."
        )
    elements = {
        instance: _flip(space, gram, directions)
        for instance, gram in _grams(layout, space, values).items()
    }

    def gauge(asked: Space, instance: tuple[int, ...]) -> AxisMap:
        if asked.name != SPACE:
            return AxisMap.identity(asked.size or 0)
        return elements[instance]

    return gauge


def _flip(space: Space, gram: Float, directions: int) -> AxisMap:
    """P for one instance."""
    size = len(gram)
    if isinstance(space.group, Rotary):
        real, imaginary = space.group.planes(size)
        energy = np.diag(gram)[real] + np.diag(gram)[imaginary]
        numbers = np.ones(size // 2, np.complex128)
        numbers[np.argsort(-energy, kind="stable")[: max(1, directions // 2)]] = -1
        return space.group.element(size, numbers)
    if not isinstance(space.group, Linear):
        kind = space.group.name if space.group else "fixed"
        raise UnsupportedError(f"the space {space.name!r} is {kind}: no flip is known for it.")
    _, vectors = np.linalg.eigh(gram)  # ascending
    leading = vectors[:, size - directions :]
    return AxisMap.block(np.eye(size) - 2 * leading @ leading.T)


def _grams(layout: Layout, space: Space, values: Values) -> dict[tuple[int, ...], Float]:
    """G of each instance of the space."""
    size = space.size or 0
    grams = {instance: np.zeros((size, size)) for instance in layout.instances(space)}
    for name, placement in layout.placements.items():
        axes = placement.rule.axes
        if not any(SPACE in axis.names() for axis in axes):
            continue
        for block in blocks(axes, layout.spaces, np.asarray(values(name), np.float64)):
            if SPACE not in block.names():
                continue
            inner = [index for index in space.per if index in block.names()]
            rows = block.rows(*inner, SPACE)
            found = rows @ rows.swapaxes(-1, -2)
            for place in np.ndindex(*found.shape[:-2]):
                index = {**placement.index, **dict(zip(inner, place, strict=True))}
                grams[tuple(index[one] for one in space.per)] += found[place]
    return grams
