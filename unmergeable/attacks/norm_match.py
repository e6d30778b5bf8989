"""Norm match: the task vector is rescaled to the length of the peers' task vectors.

A defence that makes the released task vector long lets it drown the peers' in any merge with common
coefficients. With several peers their lengths' mean is taken. A tensor that the peers did not train
gives no length to match and stays.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Iterator

from unmergeable.attacks.attack import Attack, Thief, Variant
from unmergeable.attacks.task_vector import changed, grains, shared
from unmergeable.merging.method import State


def norm_match(thief: Thief, released: State) -> Iterator[Variant]:
    """Rescales per tensor, per layer and as a whole."""
    base = thief.base
    own: dict[str, float] = {}
    peers: dict[str, list[float]] = {}
    for name in shared(base, released):
        own[name] = float((released[name] - base[name]).square().sum())
        peers[name] = [
            float((peer[name] - base[name]).square().sum())
            for peer in thief.peers
            if name in peer and peer[name].shape == base[name].shape
        ]
    for grain, group in grains(thief.layout).items():
        squares: dict[Hashable, float] = defaultdict(float)
        wanted: dict[Hashable, list[float]] = defaultdict(lambda: [0.0] * len(thief.peers))
        for name in own:
            if len(peers[name]) == len(thief.peers):
                squares[group(name)] += own[name]
                wanted[group(name)] = [
                    total + one for total, one in zip(wanted[group(name)], peers[name], strict=True)
                ]
        scale = {}
        for name in own:
            lengths = [math.sqrt(square) for square in wanted[group(name)]]
            length, mine = sum(lengths) / max(1, len(lengths)), math.sqrt(squares[group(name)])
            scale[name] = length / mine if length > 0 and 0 < mine < math.inf else 1.0
        yield from changed(
            f"length of the peers' per {grain}",
            base,
            released,
            lambda name, anchor, vector, scale=scale: vector * scale[name],  # type: ignore[misc]
        )


NORM_MATCH = Attack(
    "norm_match",
    "norm match",
    "Rescales the task vector to the length of the peers' own.",
    "data-free",
    before=norm_match,
    order=30,
)
