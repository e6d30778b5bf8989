"""Base component: takes out of the task vector what only shrinks or grows the base.

A defence that decays all weights (MergeGuard's first stage, arXiv 2511.11851) leaves a task vector
that is -c times the base plus the skill: alone the model works, but a merge that adds the vector
shrinks the base that the peers stand on. c is read off by projection, c = <tau, base> / |base|^2,
per tensor, per layer or for the whole model, and there are two ways to undo it:

- removed: base + (tau - c base), that is theta - c base. Right where c times the base was added to
  the expert.
- rescaled: theta / (1 + c), whose task vector is (tau - c base) / (1 + c). Right where the expert
  itself was multiplied by 1 + c.

Both leave a task vector orthogonal to the base (per tensor, layer or model). For small c they agree
to first order in c and tau, so the second is tried for the whole grid only where c matters.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator

from unmergeable.attacks.attack import Attack, Thief, Variant
from unmergeable.attacks.task_vector import changed, grains, shared
from unmergeable.merging.method import State

# Below this share of the base the two ways cannot be told apart.
_NOTABLE = 0.01


def base_component(thief: Thief, released: State) -> Iterator[Variant]:
    """Removes the component, per tensor, per layer and for the whole model."""
    base = thief.base
    products: dict[str, tuple[float, float]] = {}
    for name in shared(base, released):
        vector, anchor = released[name] - base[name], base[name]
        products[name] = (float((vector * anchor).sum()), float(anchor.square().sum()))
    for grain, group in grains(thief.layout).items():
        share = _shares(products, group)
        yield from changed(
            f"base component removed per {grain}",
            base,
            released,
            lambda name, anchor, vector, share=share: vector - share[name] * anchor,  # type: ignore[misc]
        )
        if max(map(abs, share.values()), default=0.0) > _NOTABLE:
            yield from changed(
                f"base component rescaled per {grain}",
                base,
                released,
                lambda name, anchor, vector, share=share: (  # type: ignore[misc]
                    (vector - share[name] * anchor) / (1 + share[name])
                    if share[name] > -0.95
                    else None
                ),
            )


def _shares(
    products: dict[str, tuple[float, float]], group: Callable[[str], Hashable]
) -> dict[str, float]:
    """The share c of each tensor, from its group's products with the base."""
    sums: dict[Hashable, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for name, (with_base, square) in products.items():
        sums[group(name)][0] += with_base
        sums[group(name)][1] += square
    found = {}
    for name in products:
        with_base, square = sums[group(name)]
        found[name] = with_base / square if square else 0.0
    return found


BASE_COMPONENT = Attack(
    "base_component",
    "base component",
    "Removes the multiple of the base from the task vector.",
    "data-free",
    before=base_component,
    order=20,
)
