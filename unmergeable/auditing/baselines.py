"""What an attack that trains is compared with: itself on the open expert, and without the release.

Published defences claim to multiply the price of an attack. So the audit, which knows the original,
runs each attack that trains on the open expert too, with a sweep of its own, until it reaches what
it reached on the release. Where alignment gave the expert back to the bit, both runs are one, and
the second is looked up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from unmergeable.attacks.attack import Attack, Thief
from unmergeable.auditing.candidates import Model
from unmergeable.auditing.cells import Cell, Cells, Price, Until
from unmergeable.evaluation.value import Value, strength

# From a model and a merge method to the merge that attacks start at, and its price.
Start = tuple[Model | None, Price]


@dataclass(frozen=True)
class Trained:
    """What is told of an attack that trains.

    Attributes:
        won: the settings of its best run, chosen on validation items.
        opened: what the same theft costs by the same attack on the open expert; None where it never
            gets as far there, or took nothing here.
        multiple: the price in seconds as a multiple of that.
        alone: what the attack is worth without the release, where it has such a control.
    """

    won: str
    opened: Price | None = None
    multiple: float | None = None
    alone: Value | None = None

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "won": self.won,
            "open": self.opened and self.opened.document(),
            "multiple": self.multiple,
            "alone": self.alone and self.alone.estimate.document(),
        }


def best(found: Sequence[Cell], value: Callable[[Sequence[Any]], Value | None]) -> Cell | None:
    """The best of an attack's cells; None if none has a figure."""
    scored = [(cell, value(cell.scores)) for cell in found if not cell.reason]

    def strong(pair: tuple[Cell, Value | None]) -> tuple[float, float, float]:
        worth = pair[1].value if pair[1] else None
        return strength(worth, pair[0].price.document())

    return max(scored, key=strong)[0] if scored else None


def compared(
    cells: Cells,
    attack: Attack,
    thief: Thief,
    found: Sequence[Cell],
    value: Callable[[Sequence[Any]], Value | None],
    opened: Callable[[], tuple[Model, Start]],
    released: tuple[Model, Start],
) -> Trained | None:
    """Compares what an attack reached with the open expert, and with what its items are worth.

    Args:
        cells: measures.
        attack: one after a merge, or instead of one.
        thief: what it may look at.
        found: what it reached on the release.
        value: from scores to what they are worth.
        opened: the open expert, with where the attack starts on it.
        released: the released (aligned) model likewise.

    Returns:
        None where the attack reached nothing that could be measured.
    """
    chosen = best(found, value)
    if chosen is None:
        return None

    def worth(cell: Cell) -> float:
        known = None if cell.reason else value(cell.scores)
        return -1.0 if known is None else known.value

    alone = None
    if attack.alone is not None:
        control = replace(attack, name=f"{attack.name}:alone", after=attack.alone, alone=None)
        model, (start, _) = released
        top = best(cells.snapshots(control, thief, model, start, Price()), value)
        alone = None if top is None else value(top.scores)
    won = Trained(str(chosen.label.get("variant", "")), alone=alone)
    wanted = worth(chosen)
    if wanted <= 0:
        return won
    model, (start, spent) = opened()
    enough = Until(wanted, worth)
    same = cells.snapshots(attack, thief, model, start, spent, enough)
    first = next((cell for cell in same if enough.reached(cell)), None)
    if first is None:
        return won
    times = chosen.price.seconds / first.price.seconds if first.price.seconds else None
    return replace(won, opened=first.price, multiple=times)
