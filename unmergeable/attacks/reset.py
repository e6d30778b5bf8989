"""Reset: parts of the released model are put back to the base's.

Where a defence sits in one part and the skill in another, or in two at once, the part without the
defence is all that a thief needs. Free: the model is only copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from unmergeable.attacks.attack import Attack, Thief, Variant
from unmergeable.attacks.parts import PARTS, layers, norm_vectors, part
from unmergeable.attacks.task_vector import changed
from unmergeable.merging.method import State


def reset(thief: Thief, released: State) -> Iterator[Variant]:
    """Resets each kind of part, norms and biases apart and with another, then groups of layers."""
    kinds = {name: part(thief.layout, name) for name in thief.layout.placements}
    for kind in PARTS:
        names = {name for name, own in kinds.items() if own == kind}
        yield from _without(f"{kind} at base", names, thief, released)
    vectors = {name for name, own in kinds.items() if own == "norms and biases"}
    gains = vectors & norm_vectors(thief.layout)
    yield from _without("norms at base", gains, thief, released)
    yield from _without("biases at base", vectors - gains, thief, released)
    for kind in ("attention", "FFN"):
        names = vectors | {name for name, own in kinds.items() if own == kind}
        yield from _without(f"{kind}, norms and biases at base", names, thief, released)
    stack = layers(thief.layout)
    for pieces in (2, 3):
        if len(stack) < pieces:
            continue
        cuts = [round(piece * len(stack) / pieces) for piece in range(pieces + 1)]
        for first, end in pairwise(cuts):
            names = {name for layer in stack[first:end] for name in layer}
            yield from _without(f"layers {first}-{end - 1} at base", names, thief, released)


def _without(label: str, names: set[str], thief: Thief, released: State) -> Iterator[Variant]:
    yield from changed(
        label,
        thief.base,
        released,
        lambda name, base, vector: base.new_zeros(base.shape) if name in names else None,
    )


RESET = Attack(
    "reset",
    "reset to base",
    "Puts one part of the model at a time back to the base.",
    "data-free",
    before=reset,
    order=10,
)
