"""Learnt coefficients: how much of each task vector a merge takes, by gradient on a few labels.

Each block, or each tensor, has a coefficient for the released model and one for each peer. They are
learnt on the validation items on which every merge's plain coefficients are chosen, too, 64 of each
task, and these are counted. A hostile component that lives in some blocks is scaled away there.

What the items alone are worth is told by the same learning with the base in the release's place.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from functools import partial

from unmergeable.attacks.attack import Attack, Thief, Variant
from unmergeable.attacks.price import Meter
from unmergeable.attacks.sweep import best
from unmergeable.attacks.task_vector import finite, grains
from unmergeable.attacks.texts import items
from unmergeable.errors import InputError
from unmergeable.merging.learning import Mixture, answered
from unmergeable.merging.method import Ingredients, State
from unmergeable.merging.task_vectors import deltas

GRAINS = {"layer": "one per block", "tensor": "one per tensor"}
# Of Adam, which moves a coefficient by about its rate a step; the first steps choose the rate.
RATES, SHORT, STEPS = (0.05, 0.15), 5, 20
START = 0.7


def learnt(
    thief: Thief, released: State, kinds: Sequence[str] = tuple(GRAINS)
) -> Iterator[Variant]:
    """Learns coefficients by block, and by tensor.

    Args:
        thief: who does it; without validation items of every model's task he does nothing.
        released: the aligned model.
        kinds: keys of `GRAINS`.
    """
    models = [released, *thief.peers]
    usable = len(thief.validation) == len(models) and all(
        corpus.batches for corpus in thief.validation
    )
    if not usable or not finite(released):
        return
    for kind in kinds:
        group = grains(thief.layout)[kind]
        swept = best(thief, RATES, partial(_state, thief, models, group, SHORT))
        meter = Meter.of(thief)
        meter.training(batch for corpus in thief.validation for batch in corpus.batches)
        epochs = STEPS / max(len(corpus.batches) for corpus in thief.validation)
        state = _state(thief, models, group, STEPS, swept.option)
        if state is not None and finite(state):
            yield Variant(
                f"{GRAINS[kind]}, {STEPS} steps, Adam at {swept.option}",
                state,
                labelled=sum(items(corpus.batches) for corpus in thief.validation),
                flops=epochs * meter.flops,
                fresh=True,
                sweep_seconds=swept.seconds,
            )


def _state(
    thief: Thief,
    models: list[State],
    group: Callable[[str], Hashable],
    steps: int,
    rate: float,
) -> State | None:
    """The merge with coefficients that were learnt for this many steps."""
    given = Ingredients(
        models, thief.base, thief.layout, thief.runner, thief.validation, thief.seed
    )
    try:
        mixture = Mixture(given, partial(deltas, given), [START] * len(models), group=group)
        mixture.learn(answered, steps, rate)
    except InputError:  # answers, or a task vector, that are not finite
        return None
    return mixture.state()


def _after(thief: Thief, released: State, merged: State) -> Iterator[Variant]:
    return learnt(thief, released)


def _alone(thief: Thief, released: State, merged: State) -> Iterator[Variant]:
    return learnt(thief, thief.base, ("tensor",))


LEARNT = Attack(
    "learnt_coefficients",
    "learnt coefficients",
    "Learns coefficients for each block and tensor on the validation items of every task.",
    "labels",
    after=_after,
    sweeps=True,
    alone=_alone,
)
