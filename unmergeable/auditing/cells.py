"""The cells of a grid, as plain values: what is measured, what was found, and what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from unmergeable.attacks.attack import Attack, Variant
from unmergeable.auditing.ensemble import Row
from unmergeable.evaluation.scoring import Score

# What the report calls the models that cells are about: the owner's expert, and its release.
Subject = Literal["open", "protected"]
NONE, ALIGN = "none", "align"
FULL = "full"  # the alignment that attacks start from; others are there for comparison


@dataclass(frozen=True)
class Cell:
    """One thing to measure: a merge of a model by a method, under attacks.

    Attributes:
        subject: the unprotected expert, or the release.
        method: how it is merged, and with which coefficients; None for an attack that merges
            nothing.
        align: the alignment that the thief begins with; empty for none.
        attack: what the thief does besides, before the merge, after it or instead of it.
    """

    subject: Subject
    method: Row | None
    align: str = ""
    attack: Attack | None = None

    @property
    def column(self) -> str:
        """What the report calls all that the thief does: "none", "align", or an attack's name."""
        if self.attack is not None:
            return self.attack.name
        if not self.align:
            return NONE
        return ALIGN if self.align == FULL else f"{ALIGN}:{self.align}"

    @property
    def title(self) -> str:
        """For people."""
        attack = self.attack.title if self.attack is not None else self.column
        if self.method is None:
            return attack
        if self.attack is not None:
            return f"{attack}, {self.method.title}"
        return f"{self.method.title}, {self.subject if self.subject == 'open' else attack}"


@dataclass(frozen=True)
class Price:
    """What an attack costs: wall time on this machine, and data; flops where they were counted."""

    seconds: float = 0.0
    labelled: int = 0
    unlabelled: int = 0
    flops: float = 0.0

    def __add__(self, other: Price) -> Price:
        return Price(
            self.seconds + other.seconds,
            self.labelled + other.labelled,
            self.unlabelled + other.unlabelled,
            self.flops + other.flops,
        )

    @classmethod
    def of(cls, variant: Variant, seconds: float) -> Price:
        """What a variant cost to make."""
        return cls(seconds, variant.labelled, variant.unlabelled, variant.flops)

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "flops": self.flops or None}


@dataclass(frozen=True, eq=False)
class Measurement:
    """What was found in a cell.

    Attributes:
        label: the chosen variant and coefficients.
        about: what the chosen candidate depends on.
        tried: how many candidates there were.
        price: of the attack and the chosen merge.
        seconds: that the whole search took, evaluations included.
        reason: why there is no figure, if there is none.
        dropped: whether that is since the merge tool dropped tensors.
        skipped: whether that says nothing of the release: it was not tried, or fails anyway.
        scores: of the chosen candidate on the test items.
    """

    label: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    tried: int = 0
    price: Price = field(default_factory=Price)
    seconds: float = 0.0
    reason: str = ""
    dropped: bool = False
    skipped: bool = False
    scores: Sequence[Score] = ()
