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

from unmergeable.auditing.cells import Cell, Measurement, Price
from unmergeable.auditing.grid import Grid, Start, Until
from unmergeable.evaluation.value import Value, strength


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


def best(
    found: Sequence[Measurement], value: Callable[[Sequence[Any]], Value | None]
) -> Measurement | None:
    """The best of what an attack reached; None if nothing has a figure."""
    scored = [(one, value(one.scores)) for one in found if not one.reason]

    def strong(pair: tuple[Measurement, Value | None]) -> tuple[float, float, float]:
        worth = pair[1].value if pair[1] else None
        return strength(worth, pair[0].price.document())

    return max(scored, key=strong)[0] if scored else None


def compared(grid: Grid, cell: Cell, found: Sequence[Measurement]) -> Trained | None:
    """Compares what an attack reached with the open expert, and with what its items are worth.

    Args:
        grid: measures.
        cell: of an attack after a merge, or instead of one.
        found: what it reached on the release.

    Returns:
        None where the attack reached nothing that could be measured.
    """
    attack, value = cell.attack, grid.inputs.value
    chosen = best(found, value)
    if attack is None or chosen is None:
        return None

    def worth(one: Measurement) -> float:
        known = None if one.reason else value(one.scores)
        return -1.0 if known is None else known.value

    def start(subject: Start) -> Start | None:
        return None if cell.method is None else grid.merged(cell.method, subject)

    alone = None
    if attack.alone is not None:
        control = replace(attack, name=f"{attack.name}:alone", after=attack.alone, alone=None)
        released = grid.start(cell)
        reached = grid.snapshots(control, released, start(released))
        top = best(reached, value)
        alone = None if top is None else value(top.scores)
    won = Trained(str(chosen.label.get("variant", "")), alone=alone)
    wanted = worth(chosen)
    if wanted <= 0:
        return won
    opened = grid.start(Cell("open", cell.method))
    enough = Until(wanted, worth)
    same = grid.snapshots(attack, opened, start(opened), enough)
    reached = [one for one in same if enough.reached(one)]
    if not reached:
        return won
    first = min(reached, key=lambda one: one.price.seconds)
    times = chosen.price.seconds / first.price.seconds if first.price.seconds else None
    return replace(won, opened=first.price, multiple=times)
