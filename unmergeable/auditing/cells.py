"""One cell of the matrix: the best that one merge method makes of one subject under one attack.

A finished cell is kept on disk under a hash of all that it depends on, so that an audit that was
killed goes on where it stood, and a second one of the same models looks everything up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from unmergeable.attacks.attack import Attack, Thief, Variant
from unmergeable.auditing.candidates import Candidates, DroppedError, Model, code_digest
from unmergeable.auditing.ensemble import Row
from unmergeable.auditing.evaluator import Evaluator
from unmergeable.auditing.search import Candidate, Found, Reference, search
from unmergeable.errors import InputError
from unmergeable.evaluation import store
from unmergeable.evaluation.scoring import Score
from unmergeable.merging.method import Merged


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
class Cell:
    """What became of a cell.

    Attributes:
        label: the chosen variant and coefficients.
        about: what the chosen candidate depends on.
        tried: how many candidates there were.
        price: of the attack and the chosen merge.
        seconds: that the whole search took, evaluations included.
        reason: why there is no figure, if there is none.
        dropped: whether that is since the merge tool dropped tensors.
        scores: of the chosen candidate on the test items.
    """

    label: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)
    tried: int = 0
    price: Price = field(default_factory=Price)
    seconds: float = 0.0
    reason: str = ""
    dropped: bool = False
    scores: Sequence[Score] = ()


# Ours, and whatever a merge library or a plugin raises on weights that it did not foresee.
FAULTS = (
    InputError,
    RuntimeError,
    ValueError,
    ArithmeticError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    NameError,
    ImportError,
    BufferError,
    MemoryError,
)


class StrangerError(InputError):
    """An attack of a package raised something that none of ours would."""


def guarded(attack: Attack) -> Attack:
    """A package's attack, whatever it raises of its own a fault of it and not of the audit's.

    An `OSError` of ours ends an audit, as when the disk is full; one that a stranger's attack
    raises, for want of a file or of a network, is a failed attack like any other.
    """

    def run(call: Callable[..., Iterator[Variant]] | None) -> Any:
        if call is None:
            return None

        def made(*given: Any) -> Iterator[Variant]:
            try:
                yield from call(*given)
            except InputError:
                raise
            except Exception as error:
                raise StrangerError(f"{type(error).__name__}: {error}") from error

        return made

    def suits(thief: Thief) -> str:
        try:
            return attack.suits(thief)
        except Exception as error:  # it has not seen the release
            return f"it cannot tell whether it applies: {type(error).__name__}: {error}"

    return replace(
        attack,
        before=run(attack.before),
        after=run(attack.after),
        instead=run(attack.instead),
        alone=run(attack.alone),
        suits=suits,
    )


def failed(error: Exception) -> Cell:
    """A cell without a figure, and why."""
    ours = isinstance(error, InputError)
    reason = str(error) if ours else f"{type(error).__name__}: {error}"
    return Cell(reason=reason, dropped=isinstance(error, DroppedError))


@dataclass(frozen=True)
class Until:
    """When an attack has reached enough.

    Attributes:
        wanted: the least V.
        worth: a cell's V.
    """

    wanted: float
    worth: Callable[[Cell], float]

    def reached(self, cell: Cell) -> bool:
        """Whether a cell is worth as much."""
        return self.worth(cell) >= self.wanted


@dataclass(frozen=True, eq=False)
class Cells:
    """Measures cells.

    Attributes:
        evaluator: scores candidates.
        candidates: makes them.
        reference: validation scores of the base and the experts.
        folder: where finished cells are kept.
        advance: called after each evaluation.
    """

    evaluator: Evaluator
    candidates: Candidates
    reference: Reference
    folder: Path
    advance: Callable[[], None] = lambda: None

    def merge(self, row: Row, subject: Model, price: Price) -> Cell:
        """The best merge of a subject by a method."""

        def measure() -> Cell:
            found, seconds = self._search(row, subject, self.candidates.around(row, subject))
            chosen = found.candidate
            scores = self._test(chosen)
            return Cell(chosen.label, chosen.about, found.tried, Price(seconds), scores=scores)

        return self._kept({"row": _known(row)}, subject, measure, price)

    def before(self, attack: Attack, thief: Thief, row: Row, subject: Model, price: Price) -> Cell:
        """The best merge of whatever an attack makes of a subject."""
        assert attack.before is not None
        make = attack.before

        def measure() -> Cell:
            best, best_share, tried = Cell(), float("-inf"), 0
            for variant, seconds in _timed(make(thief, subject.state), each=True):
                made = Model(variant.state, self._identity(attack, subject, variant))
                found, merging = self._search(row, made, settle=False)
                tried += found.tried
                if found.share > best_share:
                    best_share = found.share
                    label = {"variant": variant.label, **found.candidate.label}
                    best = Cell(
                        label,
                        found.candidate.about,
                        price=Price.of(variant, seconds + merging),
                        scores=self._test(found.candidate),
                    )
                self.evaluator.forget()
            if not best.about:
                raise InputError("the attack had nothing to try on this model")
            return replace(best, tried=tried)

        return self._kept({"attack": attack.name, "row": _known(row)}, subject, measure, price)

    def snapshots(
        self,
        attack: Attack,
        thief: Thief,
        subject: Model,
        start: Model | None,
        price: Price,
        until: Until | None = None,
    ) -> list[Cell]:
        """What an attack that trains has reached as it goes, at a growing price.

        Args:
            attack: one that works after a merge, or instead of one.
            thief: what it may look at.
            subject: the released (aligned) model.
            start: the merge, for an attack that starts at one.
            price: of what came before.
            until: when to stop early; a run that was kept whole is given back whole.
        """
        about = {"attack": attack.name, "start": None if start is None else start.identity}
        count = self._path({**about, "snapshots": True}, subject)
        early = self._path({**about, "until": until and until.wanted}, subject)
        if known := store.kept(count) or (until and store.kept(early)):
            steps = ({**about, "step": step} for step in range(known["snapshots"]))
            found = [self._found(self._path(step, subject), price) for step in steps]
            whole = [cell for cell in found if cell is not None]
            if whole and len(whole) == len(found):
                return whole
        if start is not None and attack.after is not None:
            variants = attack.after(thief, subject.state, start.state)
        elif attack.instead is not None:
            variants = attack.instead(thief, subject.state)
        else:
            raise InputError(f"attack {attack.name} has nothing to run after or instead of a merge")
        cells: list[Cell] = []
        try:
            for variant, seconds in _timed(variants):
                candidate = Candidate(
                    {"variant": variant.label},
                    {"variant": self._identity(attack, subject, variant), **about},
                    lambda variant=variant: Merged(variant.state),  # type: ignore[misc]
                )
                spent = Price.of(variant, seconds)

                def measure(candidate: Candidate = candidate, spent: Price = spent) -> Cell:
                    scores = self._test(candidate)
                    return Cell(candidate.label, candidate.about, 1, spent, scores=scores)

                step = {**about, "step": len(cells)}
                cells.append(self._kept(step, subject, measure, price))
                if until is not None and until.reached(cells[-1]):
                    count = early
                    break
        except FAULTS as error:
            return [*cells, failed(error)]
        if not cells:
            return [failed(InputError("the attack had nothing to try on this model"))]
        store.keep(count, {"snapshots": len(cells)})
        return cells

    def seconds_kept(self, about: Mapping[str, Any], subject: Model, seconds: float) -> float:
        """What something took when it was first done with these inputs; now, if it never was."""
        path = self.folder / f"{self._key({'seconds': about}, subject)}.json"
        if found := store.kept(path):
            return float(found["seconds"])
        store.keep(path, {"seconds": seconds})
        return seconds

    def _search(
        self,
        row: Row,
        subject: Model,
        around: Callable[[Candidate], Sequence[Candidate]] | None = None,
        settle: bool = True,
    ) -> tuple[Found, float]:
        """The best candidate, scored on the test items if asked, and the seconds of a merge."""
        seen: list[Candidate] = []

        def noted(group: Sequence[Candidate]) -> Sequence[Candidate]:
            seen.extend(replace(each, make=_unavailable) for each in group)  # lets the weights go
            return group

        found = search(
            map(noted, self.candidates.groups(row, subject)),
            self.evaluator,
            self.reference,
            None if around is None else lambda best: noted(around(best)),
            self._settle if settle else lambda best: None,
            self.advance,
        )
        # Scaled candidates share one merge, so the longest making is what a merge takes.
        return found, max(self.evaluator.making(each.about) for each in seen)

    def _settle(self, candidate: Candidate) -> None:
        self._test(candidate)

    def _test(self, candidate: Candidate) -> list[Score]:
        scores = self.evaluator.scores(candidate.about, candidate.make, "test")
        self.advance()
        return scores

    def _kept(
        self, about: Mapping[str, Any], subject: Model, measure: Callable[[], Cell], before: Price
    ) -> Cell:
        """A cell from disk, or measured now; a failure is a cell with a reason.

        What is kept is the price of the cell's own work: the same weights may have been come by at
        different prices, such as the open expert's, which alignment gives back to the bit.
        """
        path = self._path(about, subject)
        if known := self._found(path, before):
            return known
        start = time.perf_counter()
        lasting = True
        try:
            cell = measure()
        except FAULTS as error:
            cell, lasting = failed(error), not isinstance(error, StrangerError)
        self.evaluator.forget()
        cell = replace(cell, seconds=time.perf_counter() - start)
        kept = ("label", "about", "tried", "seconds", "reason", "dropped")
        content = {name: getattr(cell, name) for name in kept}
        if lasting:  # a stranger's network may be there the next time
            store.keep(path, {**content, "price": asdict(cell.price)})
        return replace(cell, price=before + cell.price)

    def _path(self, about: Mapping[str, Any], subject: Model) -> Path:
        return self.folder / f"{self._key(about, subject)}.json"

    def _found(self, path: Path, before: Price) -> Cell | None:
        """A cell from disk; None if it, or a score of it, is not there or is damaged."""
        found = store.kept(path)
        if found is None:
            return None
        cell = Cell(price=before + Price(**found.pop("price")), **found)
        if cell.reason:
            return cell
        if not self.evaluator.are_known(cell.about, "test"):
            return None
        return replace(cell, scores=self.evaluator.scores(cell.about, _unavailable, "test"))

    def _identity(self, attack: Attack, subject: Model, variant: Variant) -> str:
        """A hash of all that a variant was made from: whatever the thief holds, and our code."""
        made = {"attack": attack.name, "variant": variant.label}
        return store.digest({**made, **self._surroundings(subject)})

    def _surroundings(self, subject: Model) -> dict[str, Any]:
        candidates = self.candidates
        return {
            "subject": subject.identity,
            "base": candidates.base.identity,
            "peers": [peer.identity for peer in candidates.peers],
            "inputs": candidates.inputs,
            "seed": candidates.seed,
            "code": code_digest(),
        }

    def _key(self, about: Mapping[str, Any], subject: Model) -> str:
        tasks = [task.content_hash for task in self.evaluator.tasks]
        known = {**self.evaluator.fingerprint, **self._surroundings(subject)}
        return store.digest({**known, "cell": about, "tasks": tasks})[:32]


def _timed(variants: Iterator[Variant], each: bool = False) -> Iterator[tuple[Variant, float]]:
    """Variants with the seconds spent making them, choosing settings and what is between left out.

    Args:
        variants: of an attack.
        each: whether every variant stands for itself, or goes on from the one before.
    """
    spent = 0.0
    while True:
        start = time.perf_counter()
        variant = next(variants, None)
        if variant is None:
            return
        taken = time.perf_counter() - start - variant.sweep_seconds
        spent = (0.0 if each or variant.fresh else spent) + max(0.0, taken)
        yield variant, spent


def _known(row: Row) -> list[Any]:
    """What identifies the candidates of a row."""
    return [row.name, row.settings, row.scales, row.wide]


def _unavailable() -> Any:
    raise InputError("this was measured before, and a part of the cache is gone since")
