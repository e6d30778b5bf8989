"""Reads a suite's cells back and works the figures of the page out of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from unmergeable.bench.field import artefact
from unmergeable.bench.field.columns import (
    ALONE,
    CONTROLS,
    CROWD,
    CROWD_GROUP,
    DATA_FREE,
    METHODS,
    PAIR_GROUP,
    TITLES,
    WITH_DATA,
    place,
)
from unmergeable.bench.field.defences import DEFENCES, NONE, FieldDefence
from unmergeable.bench.field.kept import Kept
from unmergeable.evaluation.scoring import Score
from unmergeable.evaluation.value import DRAWS, Value, merge_value, strength

if TYPE_CHECKING:
    from numpy.typing import NDArray

Cell = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Figure:
    """A figure of the page.

    Attributes:
        value: mean over the seeds.
        low: end of its 95 % bootstrap interval over test items, of the mean.
        high: the other end.
        seeds: the figure of each seed.
        keys: the artefacts that it came from, one per seed.
        method: the merge method, of the first seed.
        attack: the attack, of the first seed.
        title: of that attack, for tables.
        price: of the attack, of the first seed; seconds, labelled, unlabelled.
        partial: whether some cells that it is the best of were not measured, so that it is a lower
            bound.
    """

    value: float
    low: float
    high: float
    seeds: Mapping[int, float]
    keys: Sequence[str]
    method: str = ""
    attack: str = ""
    title: str = ""
    price: Mapping[str, Any] = field(default_factory=dict)
    partial: bool = False


@dataclass(frozen=True, eq=False)
class Results:
    """The cells of one suite.

    Attributes:
        kept: as they are kept; see [`kept`][unmergeable.bench.field.kept].
    """

    kept: Kept

    @property
    def index(self) -> Mapping[str, Any]:
        """See [`index`][unmergeable.bench.field.index]."""
        return self.kept.index

    @property
    def owner(self) -> str:
        """The name of the owner's task."""
        return str(self.index["groups"][PAIR_GROUP][0])

    @cached_property
    def defences(self) -> list[FieldDefence]:
        """The rows that were run, or refused."""
        ran = {name.partition("/")[0] for name in self.index["defended"]}
        known = {defence.name: defence for defence in DEFENCES}
        # Rows of packages that are not installed here are as the file tells them.
        rows = self.index["rows"].items()
        told = {name: FieldDefence(**row) for name, row in rows if name not in known}
        return [row for name, row in (known | told).items() if name in ran]

    @cached_property
    def _cells(self) -> dict[str, Cell | None]:
        return {where: cell for where, cell in self.kept.cells.items() if not self._refused(where)}

    def _refused(self, where: str) -> bool:
        """Whether a place is a defence's that gave no model, so that nothing can be measured."""
        _, defence, seed, *_ = where.split("/")
        about = self.index["defended"].get(f"{defence}/{seed}")
        return about is not None and bool(about["refused"])

    @cached_property
    def data_free(self) -> tuple[str, ...]:
        """The names of the attacks that need no data, those of packages included."""
        return (*DATA_FREE, *self._added("data-free"))

    @cached_property
    def with_data(self) -> tuple[str, ...]:
        """The names of the attacks that need texts or labels, those of packages included."""
        return (*WITH_DATA, *self._added("text", "labels"))

    @property
    def attacks(self) -> tuple[str, ...]:
        """The names of everything that may be done before or after a merge, and nothing first."""
        return ("none", *self.data_free, *self.with_data)

    def _added(self, *stages: str) -> list[str]:
        added = self.index.get("attacks", {})
        return [name for name, about in added.items() if about["stage"] in stages]

    def attack_title(self, name: str) -> str:
        """What an attack is called in tables."""
        return TITLES.get(name) or str(self.index["attacks"][name]["title"])

    @property
    def counts(self) -> tuple[int, int]:
        """How many cells are measured, and how many were planned."""
        return sum(cell is not None for cell in self._cells.values()), len(self._cells)

    def measured(self) -> list[Cell]:
        """All cells that were measured, failed ones included."""
        return [cell for cell in self._cells.values() if cell is not None]

    def placed(self) -> Iterator[tuple[str, str, Cell]]:
        """The group, the attack and the cell of all that were measured."""
        for where, cell in self._cells.items():
            if cell is not None:
                group, _, _, attack, _ = where.split("/")
                yield group, attack, cell

    def failures(self) -> Iterator[tuple[str, str]]:
        """The place and the reason of every cell without a figure."""
        for where, cell in self._cells.items():
            if cell is not None and cell["reason"]:
                yield where, cell["reason"]

    def seeds(self, defence: FieldDefence) -> list[int]:
        """The seeds of a defence that were run."""
        names = (name.split("/") for name in self.index["defended"])
        return sorted(int(seed) for name, seed in names if name == defence.name)

    def cell(
        self, group: str, defence: FieldDefence, seed: int, attack: str, method: str = ""
    ) -> Cell | None:
        """A cell, if it was measured."""
        return self._cells.get(place(group, defence.name, seed, attack, method))

    def singles(self, group: str) -> Cell | None:
        """The cell that says how the base and the experts do, and which controls hold."""
        return self.cell(group, NONE, 0, CONTROLS)

    def worth(self, group: str, cell: Cell) -> Value | None:
        """What a cell's merge is worth; None without a figure."""
        singles = self.singles(group)
        if singles is None or cell["reason"]:
            return None
        names = self.index["groups"][group]
        experts = ["original", *(f"peer {n}" for n in range(1, len(names)))]
        got, low, high = (
            [artefact.unpack(marks[name]) for name, marks in zip(names, rows, strict=True)]
            for rows in (
                [cell["marks"]] * len(names),
                [singles["singles"]["base"]] * len(names),
                [singles["singles"][expert] for expert in experts],
            )
        )
        return merge_value(got, low, high)

    def best(
        self,
        defence: FieldDefence,
        attacks: Sequence[str],
        group: str = PAIR_GROUP,
        methods: Sequence[str] | None = None,
    ) -> Figure | None:
        """The best merge under any of some attacks, by any method that deploys one model.

        Where a defence was trained with several seeds, the best of each, and their mean.

        Args:
            defence: the row.
            attacks: names of attacks; of ceilings, which take no merge method.
            group: which merges.
            methods: names of merge methods; by default all.
        """
        if methods is None:
            methods = [m for m in (CROWD if group == CROWD_GROUP else METHODS) if not routed(m)]
        found: list[tuple[int, Value, Cell, str, str]] = []
        partial = False
        for seed in self.seeds(defence):
            options: list[tuple[int, Value, Cell, str, str]] = []
            for attack in attacks:
                for method in (*methods, ""):
                    where = place(group, defence.name, seed, attack, method)
                    if where not in self._cells:
                        continue
                    cell = self._cells[where]
                    partial |= cell is None
                    value = None if cell is None else self.worth(group, cell)
                    if cell is not None and value is not None:
                        options.append((seed, value, cell, attack, method))
            if options:
                found.append(max(options, key=_strength))
        if not found:
            return None
        drawn = np.mean([value.drawn for _, value, *_ in found], axis=0)
        _, _, first, attack, method = found[0]
        return Figure(
            float(np.mean([value.value for _, value, *_ in found])),
            *ends(drawn),
            {seed: value.value for seed, value, *_ in found},
            [cell["key"] for _, _, cell, *_ in found],
            method,
            attack,
            self.attack_title(attack),
            first["price"],
            partial,
        )

    def lost(self, defence: FieldDefence) -> Figure | None:
        """The share of the owner's test items that the released model loses, net."""
        singles = self.singles(PAIR_GROUP)
        found: dict[int, tuple[NDArray[Any], str]] = {}
        for seed in self.seeds(defence):
            cell = self.cell(PAIR_GROUP, defence, seed, ALONE)
            if singles is None or cell is None or cell["reason"]:
                continue
            before = artefact.unpack(singles["singles"]["original"][self.owner])
            after = artefact.unpack(cell["marks"][self.owner])
            gap = np.array(before.marks) - np.array(after.marks)
            found[seed] = (gap, cell["key"])
        if not found:
            return None
        gap = np.mean([gap for gap, _ in found.values()], axis=0)
        draws = np.random.default_rng(0).integers(len(gap), size=(DRAWS, len(gap)))
        return Figure(
            float(gap.mean()),
            *ends(gap[draws].mean(1)),
            {seed: float(gap.mean()) for seed, (gap, _) in found.items()},
            [key for _, key in found.values()],
        )

    def single(self, group: str, model: str, task: str) -> Score | None:
        """How the base or an expert does a task."""
        cell = self.singles(group)
        return None if cell is None else artefact.unpack(cell["singles"][model][task])


def _strength(option: tuple[int, Value, Cell, str, str]) -> tuple[float, float, float]:
    _, value, cell, *_ = option
    return strength(value.value, cell["price"], value.estimate.low)


def ends(drawn: NDArray[Any]) -> tuple[float, float]:
    """The 95 % interval of bootstrap draws."""
    low, high = np.nanquantile(drawn, (0.025, 0.975))
    return float(low), float(high)


@cache
def routed(method: str) -> bool:
    """Whether a method deploys a set of weights per task, which counts for nothing."""
    from unmergeable.merging.methods import methods

    own = methods().get(method)
    return own is not None and own.deploys != "model"
