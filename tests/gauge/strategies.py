"""Random spaces, elements and axes for property tests."""

import numpy as np
from hypothesis import strategies as st

from unmergeable.gauge.axis_map import AxisMap
from unmergeable.gauge.groups import GROUPS, Kind
from unmergeable.gauge.notation import Space
from unmergeable.gauge.randomness import Randomness


def randomness(seed: int) -> Randomness:
    return Randomness(np.random.default_rng(seed).bytes)


SPACES = {
    "fixed": Space("fixed", 3, None, "why not"),
    "head": Space("head", 3, GROUPS["permutation"]),
    "query": Space("query", 2, GROUPS["permutation"], per=("head",)),
    "wide": Space("wide", 5, GROUPS["signed permutation"]),
    "neuron": Space("neuron", 4, GROUPS["scaled permutation"]),
    "qk": Space("qk", 4, GROUPS["rotary half"], per=("head",)),
    "vo": Space("vo", 4, GROUPS["linear"], per=("head",)),
}

AXES = [
    "wide",
    "neuron*",
    "|neuron|",
    "fixed",
    "(head vo)",
    "(head vo*)",
    "(head query qk)",
    "(head query vo*)",
    "[(head qk) (head qk*) (head vo)]",
    "(head [qk qk* vo])",
    "[|neuron| neuron]",
    "(head [neuron vo])",
    "(wide fixed)",
    "(neuron* wide)",
]
axes = st.sampled_from(AXES)
seeds = st.integers(0, 2**32)
kinds = st.sampled_from([Kind(), Kind(scales=False), Kind(general=True)])


def gauge(seed: int, kind: Kind):
    """An element for each instance of each space."""
    found: dict[object, AxisMap] = {}

    def element(space: Space, instance: tuple[int, ...]) -> AxisMap:
        if space.group is None:
            return AxisMap.identity(space.size)
        place = (space.name, instance)
        if place not in found:
            mixed = hash((seed, *map(ord, space.name), *instance)) % 2**63
            found[place] = space.group.draw(space.size, randomness(mixed), kind)
        return found[place]

    return element


def matrix(change: AxisMap) -> np.ndarray:
    """The dense matrix of a map."""
    return change(np.eye(change.size), 0)
