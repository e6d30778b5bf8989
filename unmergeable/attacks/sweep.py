"""Settings of an attack that trains, chosen for each model on validation items.

Published defences fell as soon as learning rates were swept. The grid is fixed: each point runs to
the plan's first stop, the merge or model it made is judged on the validation items that merging
coefficients are chosen on, and only the best point goes on to the longer horizons.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from unmergeable.attacks.attack import Thief
from unmergeable.merging.method import State
from unmergeable.training.loop import Optimiser, Plan

# In multiples of a plan's own rate, which is AdamW's; SGD's gradients are cut to length 1.
GRID: tuple[tuple[Optimiser, float], ...] = (
    ("AdamW", 1.0),
    ("AdamW", 5.0),
    ("AdamW", 0.2),
    ("SGD", 1000.0),
)

Option = TypeVar("Option")


@dataclass(frozen=True, eq=False)
class Chosen(Generic[Option]):
    """What was chosen, and the seconds that this took."""

    option: Option
    seconds: float = 0.0


def best(
    thief: Thief, options: Sequence[Option], make: Callable[[Option], State | None]
) -> Chosen[Option]:
    """The option whose state the thief judges best; of equals, and without a judge, the first.

    Args:
        thief: who judges.
        options: at least one.
        make: what an option leads to; None where it leads nowhere.
    """
    if thief.judge is None or len(options) < 2:
        return Chosen(options[0])
    start = time.perf_counter()
    found, most = options[0], -math.inf
    for option in options:
        state = make(option)
        worth = -math.inf if state is None else thief.judge(state)
        if worth > most:
            found, most = option, worth
    return Chosen(found, time.perf_counter() - start)


def points(plan: Plan) -> list[Plan]:
    """The grid around a plan."""
    return [
        replace(plan, rate=factor * plan.rate, optimiser=optimiser) for optimiser, factor in GRID
    ]


def named(plan: Plan) -> str:
    """A point of the grid, for people."""
    return f"{plan.optimiser} at {plan.rate:.0e}"
