"""The grid: which merge methods meet which attacks on which defence, and in what order.

What the main table needs comes first, for every defence in turn, so that a run that was stopped
early has measured something of each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from unmergeable.attacks.attack import Attack
from unmergeable.attacks.ladder import CEILINGS as CEILING_ATTACKS
from unmergeable.attacks.ladder import LADDER, attacks
from unmergeable.auditing.ensemble import Preset, Row, rows
from unmergeable.bench.field.defences import NONE, FieldDefence
from unmergeable.bench.field.suite import Suite
from unmergeable.errors import InputError
from unmergeable.merging.methods import OWN

# Names of the merge methods; the first ones are the main ones.
MAIN = ("task_arithmetic", "linear", "ties")
METHODS = (
    *MAIN,
    "slerp",
    "dare_ties",
    "breadcrumbs",
    "della",
    "model_stock",
    "karcher",
    *(name for name, method in OWN.items() if method.in_field),
)
# Of merges of many models: those of the literature's tables.
CROWD = (*MAIN, "tsv", "iso_c")

PAIR_GROUP, CROWD_GROUP = "pair", "crowd"
CONTROLS = "controls"  # what must hold before any merge says anything; once for each group
ALONE = "alone"  # the released model by itself, which is no attack
DATA_FREE = ("align", "aga")
WITH_DATA = ("pull_back", "fine_tune")
CEILINGS = ("distil_release", "fine_tune_release")
ATTACKS = ("none", *DATA_FREE, *WITH_DATA)

TITLES = {
    CONTROLS: "base, experts and positive controls",
    ALONE: "the model alone",
    "none": "as released",
    "aga": "AGA",
    "align": "full alignment",
    "pull_back": "alignment, pull-back on 500 unlabelled items",
    "fine_tune": "alignment, merge, 100 steps of fine-tuning",
    "distil_release": "distil the release",
    "fine_tune_release": "fine-tune the release on the peer's data",
}


def plugins() -> dict[str, Attack]:
    """The attacks that installed packages add, by name; each starts from the aligned release.

    Raises:
        InputError: one that takes a name in use, or cannot be loaded.
    """
    own = {attack.name for attack in (*LADDER, *CEILING_ATTACKS)}
    found = {name: one for name, one in attacks().items() if name not in own}
    if taken := [name for name in found if name in TITLES]:
        raise InputError(f"a package calls its attack {taken[0]!r}, as the field calls one.")
    return found


@dataclass(frozen=True)
class Column:
    """One attack on one defence, with the merge methods that it is tried with: a job.

    Attributes:
        group: "pair" or "crowd".
        defence: which row.
        seed: of the defence.
        attack: one of `ATTACKS` and `CEILINGS`, or `ALONE`, or `CONTROLS`.
        methods: names of merge methods; none for ceilings and for the model alone.
        quick: whether each method tries its first coefficients only.
    """

    group: str
    defence: FieldDefence
    seed: int
    attack: str
    methods: tuple[str, ...] = ()
    quick: bool = False

    @property
    def title(self) -> str:
        """For people."""
        many = ", many models" if self.group == CROWD_GROUP else ""
        methods = f" ({len(self.methods)} merge methods)" if self.methods else ""
        seed = f", seed {self.seed}" if self.seed else ""
        attack = TITLES.get(self.attack) or plugins()[self.attack].title
        return f"{self.defence.title}{seed}{many}: {attack}{methods}"

    @property
    def places(self) -> list[str]:
        """What its cells are known by in the index."""
        return [
            place(self.group, self.defence.name, self.seed, self.attack, method)
            for method in self.methods or ("",)
        ]


def place(group: str, defence: str, seed: int, attack: str, method: str = "") -> str:
    """The name of a cell in a suite's index."""
    return f"{group}/{defence}/{seed}/{attack}/{method}"


def columns(
    suite: Suite,
    defences: Sequence[FieldDefence],
    *,
    quick: bool = False,
    seeds: int = 1,
    only: Sequence[str] = (),
) -> list[Column]:
    """All columns of a suite, in the order in which they are measured.

    Args:
        suite: whose.
        defences: the rows.
        quick: the part to begin with: two-model merges by the main methods and few others, without
            data.
        seeds: of training-time defences; the others have one.
        only: names of attacks and of merge methods to keep; empty for all. Names of one kind alone
            keep all of the other kind.

    Raises:
        InputError: a name in `only` that is neither.
    """
    known = (ALONE, *ATTACKS, *plugins(), *CEILINGS, *METHODS)
    if unknown := [name for name in only if name not in known]:
        raise InputError(f"--only {unknown[0]}: there is {', '.join(known)}.")
    wanted = [name for name in only if name not in METHODS]
    methods = [name for name in only if name in METHODS]
    kept = []
    for column in _all(suite, defences, quick, seeds):
        if wanted and column.attack not in (CONTROLS, ALONE, *wanted):
            continue
        if methods and column.methods:
            column = replace(column, methods=tuple(m for m in column.methods if m in methods))
            if not column.methods:
                continue
        kept.append(column)
    return kept


def _all(
    suite: Suite, defences: Sequence[FieldDefence], quick: bool, seeds: int
) -> Iterator[Column]:
    # Without merges of the open expert, nothing could be said of any other.
    ordered = [NONE, *(defence for defence in defences if defence.name != NONE.name)]
    rest = tuple(name for name in METHODS if name not in MAIN)

    def over(
        attacks: Sequence[str],
        methods: tuple[str, ...],
        group: str = PAIR_GROUP,
        chosen: Sequence[FieldDefence] = ordered,
        seed: int = 0,
    ) -> Iterator[Column]:
        for attack in attacks:
            for defence in chosen:
                yield Column(group, defence, seed, attack, methods, quick)

    yield Column(PAIR_GROUP, NONE, 0, CONTROLS)
    if quick:
        yield from over((ALONE,), ())
        yield from over(("none", "align"), (*MAIN, "tsv", "emr"))
        free = [name for name, attack in plugins().items() if attack.stage == "data-free"]
        yield from over(("aga", *free), MAIN[:1])
        return
    main = [defence for defence in ordered if defence.main]
    trained = [defence for defence in ordered if defence.trained]
    crowd = len(suite.crowd) > len(suite.pair)
    yield from over((ALONE,), ())
    yield from over(("none", "align", *WITH_DATA), MAIN[:1])
    yield from over(("none", "align"), MAIN[1:])
    yield from over(CEILINGS, ())
    if crowd:
        yield Column(CROWD_GROUP, NONE, 0, CONTROLS)
        yield from over(("none", "align"), CROWD[:1], CROWD_GROUP, main)
    yield from over(("aga", *plugins()), MAIN[:1])
    for seed in range(1, seeds):
        yield from over((ALONE,), (), PAIR_GROUP, trained, seed)
        yield from over(("none", *DATA_FREE), MAIN, PAIR_GROUP, trained, seed)
    yield from over(("none", "align"), rest)
    if crowd:
        yield from over(("aga", *WITH_DATA), CROWD[:1], CROWD_GROUP, main)
        yield from over(("none", "align"), CROWD[1:], CROWD_GROUP, main)
    yield from over(("aga",), (*MAIN[1:], *rest))
    yield from over(WITH_DATA, (*MAIN[1:], *rest))


def method_rows(names: Sequence[str], quick: bool) -> list[Row]:
    """The merge methods with the coefficients that they try: the audit's own.

    Raises:
        InputError: a method that is not installed.
    """
    settings = 8 if quick else None
    return rows(Preset("field", methods=tuple(names), settings=settings))
