"""Reads a suite's cells back and works the figures of the page out of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

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
from unmergeable.evaluation.value import (
    DRAWS,
    Estimate,
    Runs,
    Value,
    draw_runs,
    merge_value,
    strength,
    theft,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

Cell = Mapping[str, Any]


_Option = tuple[Value, Cell, str, str]  # V, the cell, the attack, the merge method


@dataclass(frozen=True, eq=False)
class Figure:
    """A figure of the page: the best of several merges, or an accuracy.

    Attributes:
        value: mean over the seeds.
        low: end of its 95 % bootstrap interval over seeds and test items, of the mean.
        high: the other end. Whoever looks at many attacks sees the luckiest first: it is the
            largest of the upper ends of all that this is the best of.
        seeds: the figure of each seed.
        keys: the artefacts that it came from, one per seed.
        top: those that the upper end is of, where they are others; empty where they are not.
        method: the merge method, of the first seed.
        attack: the attack, of the first seed.
        title: of that attack, for tables.
        price: of the attack, of the first seed; seconds, labelled, unlabelled.
        partial: whether some cells that it is the best of were not measured, so that it is a lower
            bound.
        theft: of what the best merge of the open expert is worth, the share that this is, with an
            interval of the same kind; None where an open merge is worth nothing.
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
    theft: Estimate | None = None
    top: Sequence[str] = ()


class _Look(NamedTuple):
    """One merge of every seed."""

    runs: Runs
    keys: Sequence[str]

    @classmethod
    def of(cls, options: Sequence[_Option]) -> _Look:
        return cls(
            Runs(tuple(value for value, *_ in options)), [cell["key"] for _, cell, *_ in options]
        )


class Place(NamedTuple):
    """Where in the grid a cell stands; see [`columns`][unmergeable.bench.field.columns]."""

    group: str
    defence: str
    seed: int
    attack: str
    method: str


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

    def placed(self) -> Iterator[tuple[Place, Cell]]:
        """All cells that were measured, each with its place."""
        for where, cell in self._cells.items():
            if cell is not None:
                group, defence, seed, attack, method = where.split("/")
                yield Place(group, defence, int(seed), attack, method), cell

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
        place = group, cell["key"]
        if place not in self._worths:
            self._worths[place] = self._worth(group, cell)
        return self._worths[place]

    @cached_property
    def _worths(self) -> dict[tuple[str, str], Value | None]:
        return {}

    def _worth(self, group: str, cell: Cell) -> Value | None:
        singles = self.singles(group)
        if singles is None or not cell["marks"]:
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

    @cached_property
    def _open(self) -> dict[str, Value]:
        """V of the best merge of the open expert, by group; of those that were measured."""
        found: dict[str, Value] = {}
        for group in self.index["groups"]:
            options, _ = self._options(NONE, ("none",), group, None)
            if options:
                found[group] = max(options[0], key=_strength)[0]
        return found

    def theft(self, group: str, value: Value | Runs) -> Estimate | None:
        """What a merge is worth as a share of what the best merge of the open expert is.

        None where no merge of the open expert was measured, or it is worth nothing.
        """
        opened = self._open.get(group)
        return None if opened is None else theft(value, opened)

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
        options, partial = self._options(defence, attacks, group, methods)
        if not options:
            return None
        found = {seed: max(each, key=_strength) for seed, each in options.items()}
        ways: dict[tuple[str, str], list[_Option]] = {}
        for each in options.values():
            for option in each:
                ways.setdefault(option[2:], []).append(option)
        best, *looks = (_Look.of(each) for each in (list(found.values()), *ways.values()))
        top = max((best, *looks), key=lambda look: look.runs.estimate.high)
        taken = self.theft(group, best.runs)
        if taken is not None:
            tops = [one.high for look in looks if (one := self.theft(group, look.runs))]
            taken = replace(taken, high=max(taken.high, *tops))
        _, first, attack, method = next(iter(found.values()))
        return Figure(
            best.runs.value,
            best.runs.estimate.low,
            top.runs.estimate.high,
            {seed: value.value for seed, (value, *_) in found.items()},
            best.keys,
            method,
            attack,
            self.attack_title(attack),
            first["price"],
            partial,
            taken,
            top.keys if top.runs.estimate.high > best.runs.estimate.high else (),
        )

    def _options(
        self,
        defence: FieldDefence,
        attacks: Sequence[str],
        group: str,
        methods: Sequence[str] | None,
    ) -> tuple[dict[int, list[_Option]], bool]:
        """What `best` chooses from, by seed; and whether some of it was not measured."""
        if methods is None:
            methods = [m for m in (CROWD if group == CROWD_GROUP else METHODS) if not routed(m)]
        options: dict[int, list[_Option]] = {}
        partial = False
        for seed in self.seeds(defence):
            for attack in attacks:
                for method in (*methods, ""):
                    where = place(group, defence.name, seed, attack, method)
                    if where not in self._cells:
                        continue
                    cell = self._cells[where]
                    partial |= cell is None
                    value = None if cell is None else self.worth(group, cell)
                    if cell is not None and value is not None:
                        options.setdefault(seed, []).append((value, cell, attack, method))
        return options, partial

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
        gaps = np.array([gap for gap, _ in found.values()])
        items = np.random.default_rng(0).integers(gaps.shape[1], size=(DRAWS, gaps.shape[1]))
        low, high = np.quantile(draw_runs(gaps[:, items].mean(2)), (0.025, 0.975))
        return Figure(
            float(gaps.mean()),
            float(low),
            float(high),
            {seed: float(gap.mean()) for seed, (gap, _) in found.items()},
            [key for _, key in found.values()],
        )

    def single(self, group: str, model: str, task: str) -> Score | None:
        """How the base or an expert does a task."""
        cell = self.singles(group)
        return None if cell is None else artefact.unpack(cell["singles"][model][task])


def _strength(option: _Option) -> tuple[float, float, float]:
    value, cell, *_ = option
    return strength(value.value, cell["price"], value.estimate.low)


@cache
def routed(method: str) -> bool:
    """Whether a method deploys a set of weights per task, which counts for nothing."""
    from unmergeable.merging.methods import methods

    own = methods().get(method)
    return own is not None and own.deploys != "model"
