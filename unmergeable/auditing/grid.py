"""Measures the cells of a grid: the only code that loads, merges, attacks and scores.

An audit is a grid of one release, the field benchmark one of many. A measured cell is kept on disk
under a hash of all that it depends on, so that a run that was killed goes on where it stood, and a
second one of the same models looks everything up.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from unmergeable.attacks.align import align_tensors
from unmergeable.attacks.attack import Attack, Variant
from unmergeable.attacks.ladder import PluginError
from unmergeable.attacks.rebuilt import as_stock, is_rebuilt
from unmergeable.auditing.audit_inputs import AuditInputs, load, offloaded
from unmergeable.auditing.candidates import DroppedError, Model, code_digest
from unmergeable.auditing.cells import Cell, Measurement, Price
from unmergeable.auditing.ensemble import Row
from unmergeable.auditing.fitting import fitted, tamed
from unmergeable.auditing.plan import unsuited
from unmergeable.auditing.search import Candidate, Found, search
from unmergeable.errors import DeviceError, InputError, clip
from unmergeable.evaluation import store
from unmergeable.evaluation.scoring import Score
from unmergeable.merging.method import Merged
from unmergeable.models import device
from unmergeable.models.offloaded_state import OffloadedState
from unmergeable.models.weights import Weights

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
_MESSAGE = 200  # characters of another library's error
CELLS = "cells"  # of a cache folder: where measured cells are
_HELD = 2  # models between cells: the release, aligned or not, and the open expert


def failed(error: Exception) -> Measurement:
    """A measurement without a figure, and why."""
    ours = isinstance(error, InputError)
    reason = str(error) if ours else f"{type(error).__name__}: {error}"
    return Measurement(reason=reason, dropped=isinstance(error, DroppedError))


def check_device(error: Exception) -> None:
    """Ends an audit whose device is lost: whatever else it tried would fail for that reason.

    Raises:
        DeviceError: it is.
    """
    if device.is_lost(error):
        reason = clip(" ".join(str(error).split()), _MESSAGE)
        raise DeviceError(
            f"the device was lost: {reason}. What is measured is kept: run the same command again "
            "to go on."
        ) from error


@dataclass(frozen=True)
class Until:
    """When an attack has reached enough.

    Attributes:
        wanted: the least V.
        worth: a measurement's V.
    """

    wanted: float
    worth: Callable[[Measurement], float]

    def reached(self, found: Measurement) -> bool:
        """Whether a measurement is worth as much."""
        return self.worth(found) >= self.wanted


@dataclass(frozen=True, eq=False)
class Start:
    """A model that merges or attacks start from.

    Attributes:
        model: its weights.
        price: of getting there.
        distance: of an aligned model to the base, relative to the base's norm.
        suspicious: whether alignment itself calls that too far for a fine-tune.
        unknown: by tensor, what more the squared distance of a model that was tamed may be.
    """

    model: Model
    price: Price = field(default_factory=Price)
    distance: float = 0.0
    suspicious: bool = False
    unknown: Mapping[str, float] = field(default_factory=dict)


class AlignmentError(InputError):
    """A release could not be aligned.

    Whatever it made the fit raise, alignment undid a lock of this audit's own just before: so this
    is the release's doing, and every merge after it is a cell with this reason.
    """


@dataclass(frozen=True, eq=False)
class Grid:
    """Measures cells.

    Attributes:
        inputs: models, tasks, and how they are scored and merged.
        folder: where measured cells are kept.
        advance: called after each evaluation.
        identities: what aligned models are known by, by alignment, where another process made
            them first: it may round otherwise.
        keeps_failures: whether a failure is kept like a figure; not where another may succeed.
    """

    inputs: AuditInputs
    folder: Path
    advance: Callable[[], None] = lambda: None
    identities: Mapping[str, str] = field(default_factory=dict)
    keeps_failures: bool = True
    _held: dict[tuple[str, str], Start | AlignmentError] = field(default_factory=dict)

    def measure(self, cell: Cell) -> list[Measurement]:
        """What is found in a cell: of an attack that trains, what it has reached as it goes.

        A failure is a measurement with its reason.
        """
        if cell.method is not None and (reason := unsuited(self.inputs, cell.method)):
            return [Measurement(reason=reason, skipped=True)]
        try:
            subject = self.start(cell)
        except AlignmentError as error:
            reason = "alignment, where this attack starts, failed"
            return [failed(error) if cell.attack is None else Measurement(reason=reason)]
        attack, method = cell.attack, cell.method
        if attack is None:
            assert method is not None
            return [self.merge(method, subject)]
        if method is None:
            return self.snapshots(attack, subject, None)
        if attack.before is not None:
            return [self.repair(attack, method, subject)]
        try:
            return self.snapshots(attack, subject, self.merged(method, subject))
        except InputError as error:
            return [failed(error)]

    def start(self, cell: Cell) -> Start:
        """The model that a cell's merges and attacks start from; the last ones are held.

        Raises:
            AlignmentError: it could not be aligned.
        """
        key = (cell.subject, cell.align)
        if key not in self._held:
            while len(self._held) >= _HELD:
                self._held.pop(next(iter(self._held)))
            try:
                self._held[key] = self._made(*key)
            except AlignmentError as error:
                self._held[key] = error
        found = self._held[key]
        if isinstance(found, AlignmentError):
            raise found
        return found

    def merged(self, row: Row, subject: Start) -> Start:
        """The best merge of a model by a method, which attacks after merging start from.

        Raises:
            InputError: there is none; says why.
        """
        found = self.merge(row, subject)
        if found.reason:
            raise InputError(f"{row.title} has no merge to start from: {found.reason}")
        chosen = self.inputs.candidates.again(row, subject.model, found.label)
        model = Model(OffloadedState(chosen.make().state), store.digest(chosen.about))
        return Start(model, found.price)

    def merge(self, row: Row, subject: Start) -> Measurement:
        """The best merge of a model by a method."""

        def measure() -> Measurement:
            chosen, tried, seconds = self._chosen(row, subject.model)
            scores = self._test(chosen)
            seconds = max(seconds, self.inputs.evaluator.making(chosen.about))
            return Measurement(chosen.label, chosen.about, tried, Price(seconds), scores=scores)

        return self._kept({"row": _known(row)}, subject, measure)

    def repair(self, attack: Attack, row: Row, subject: Start) -> Measurement:
        """The best merge by a method of whatever an attack before merging makes of a model."""
        assert attack.before is not None
        make = attack.before

        def measure() -> Measurement:
            best: Found | None = None
            told, tried = Measurement(), 0
            variants = make(self.inputs.thief, subject.model.state)
            for variant, seconds in _timed(variants, each=True):
                clock = time.perf_counter()
                # made once: some are computed whenever they are looked at
                state = OffloadedState(variant.state)
                seconds += time.perf_counter() - clock
                made = Model(state, self._identity(attack, subject.model, variant))
                race = self._race(self.inputs.candidates.all(row, made), best)
                tried += race.tried
                if race.best is not best:
                    best = race.best
                    label = {"variant": variant.label, **best.candidate.label}
                    price = Price.of(variant, seconds + race.seconds)
                    told = Measurement(label, best.candidate.about, price=price)
                self.inputs.evaluator.forget()
            if best is None:
                raise InputError("the attack had nothing to try on this model")
            return replace(told, tried=tried, scores=self._test(best.candidate))

        return self._kept({"attack": attack.name, "row": _known(row)}, subject, measure)

    def repaired(self, attack: Attack, row: Row, subject: Start) -> Start:
        """The variant of an attack before merging whose merge by a method was the best.

        Raises:
            InputError: there is none; says why.
        """
        best = self.repair(attack, row, subject)
        if best.reason:
            raise InputError(best.reason)
        assert attack.before is not None
        variants = attack.before(self.inputs.thief, subject.model.state)
        for variant, seconds in _timed(variants, each=True):
            if variant.label == best.label["variant"]:
                model = Model(variant.state, self._identity(attack, subject.model, variant))
                return Start(model, subject.price + Price.of(variant, seconds))
        raise InputError(f"{attack.title} gave no {best.label['variant']!r} again")

    def snapshots(
        self, attack: Attack, subject: Start, start: Start | None, until: Until | None = None
    ) -> list[Measurement]:
        """What an attack that trains has reached as it goes, at a growing price.

        Args:
            attack: one that works after a merge, or instead of one.
            subject: the released (aligned) model.
            start: the merge, for an attack that starts at one.
            until: when to stop early; a run that was kept whole is given back whole.
        """
        thief, model = self.inputs.thief, subject.model
        before = subject if start is None else start
        about = {"attack": attack.name, "start": None if start is None else start.model.identity}
        count = self._path({**about, "snapshots": True}, model)
        early = self._path({**about, "until": until and until.wanted}, model)
        if known := store.kept(count) or (until and store.kept(early)):
            steps = ({**about, "step": step} for step in range(known["snapshots"]))
            found = [self._found(self._path(step, model), before.price) for step in steps]
            whole = [one for one in found if one is not None]
            if whole and len(whole) == len(found):
                return whole
        if start is not None and attack.after is not None:
            variants = attack.after(thief, model.state, start.model.state)
        elif attack.instead is not None:
            variants = attack.instead(thief, model.state)
        else:
            raise InputError(f"attack {attack.name} has nothing to run after or instead of a merge")
        reached: list[Measurement] = []
        try:
            for variant, seconds in _timed(variants):
                candidate = Candidate(
                    {"variant": variant.label},
                    {"variant": self._identity(attack, model, variant), **about},
                    lambda variant=variant: Merged(variant.state),  # type: ignore[misc]
                )
                spent = Price.of(variant, seconds)

                def measure(candidate: Candidate = candidate, spent: Price = spent) -> Measurement:
                    scores = self._test(candidate)
                    return Measurement(candidate.label, candidate.about, 1, spent, scores=scores)

                step = {**about, "step": len(reached)}
                reached.append(self._kept(step, replace(subject, price=before.price), measure))
                if until is not None and until.reached(reached[-1]):
                    count = early
                    break
        except FAULTS as error:
            check_device(error)
            return [*reached, failed(error)]
        if not reached:
            return [failed(InputError("the attack had nothing to try on this model"))]
        store.keep(count, {"snapshots": len(reached)})
        return reached

    def _made(self, subject: str, align: str) -> Start:
        """A model as the thief gets it, aligned if he aligns it."""
        inputs = self.inputs
        if subject == "open":
            return Start(load(inputs, inputs.original))
        clock = time.perf_counter()
        folder = inputs.protected if is_rebuilt(inputs.protected) else inputs.attacked
        with as_stock(folder, inputs.base) as released:
            if not align:
                return Start(load(inputs, released))
            try:
                aligned = align_tensors(released, inputs.base, method=align)
            except OSError:
                raise
            except Exception as error:
                raise AlignmentError(failed(error).reason) from error
            seconds = time.perf_counter() - clock
            weights = Weights.of_bytes(released, aligned.tensors)
        aligned.tensors.clear()
        base = inputs.candidates.base.state
        weights, unknown = tamed(fitted(weights, base), base)
        model = offloaded(weights, inputs.device)
        model = replace(model, identity=self.identities.get(align, model.identity))
        about = {"align": align, "of": inputs.digests["protected"]}
        return Start(
            model,
            Price(seconds=self._seconds(about, model, seconds)),
            math.hypot(aligned.after, math.sqrt(sum(unknown.values())) / Weights(base).norm),
            aligned.suspicious,
            unknown,
        )

    def _seconds(self, about: Mapping[str, Any], model: Model, seconds: float) -> float:
        """What something took when it was first done with these inputs; now, if it never was."""
        path = self._path({"seconds": about}, model)
        if found := store.kept(path):
            return float(found["seconds"])
        store.keep(path, {"seconds": seconds})
        return seconds

    def _chosen(self, row: Row, subject: Model) -> tuple[Candidate, int, float]:
        """The best candidate, how many were tried, and the seconds of a merge."""
        candidates = self.inputs.candidates
        if row.count == 1:  # there is nothing to choose
            only = next(candidates.all(row, subject), None)
            if only is not None:
                return only, 1, 0.0
        race = self._race(candidates.all(row, subject))
        around, best = candidates.around(row, subject), race.best
        if around is None or best.scores is None:
            return best.candidate, race.tried, race.seconds
        near = self._race(around(best.candidate), best)
        tried = race.tried + near.tried
        return near.best.candidate, tried, max(race.seconds, near.seconds)

    def _race(self, candidates: Iterable[Candidate], best: Found | None = None) -> _Race:
        """Races candidates against each other and against the best before them."""
        evaluator = self.inputs.evaluator
        seen: list[dict[str, Any]] = []

        def noted() -> Iterator[Candidate]:
            for candidate in candidates:
                seen.append(candidate.about)
                yield candidate

        found = search(noted(), evaluator, self.inputs.reference, best, self.advance)
        # Scaled candidates share one merge, so the longest making is what a merge takes.
        return _Race(found, len(seen), max(map(evaluator.making, seen), default=0.0))

    def _test(self, candidate: Candidate) -> list[Score]:
        scores = self.inputs.evaluator.scores(candidate.about, candidate.make, "test")
        self.advance()
        return scores

    def _kept(
        self, about: Mapping[str, Any], subject: Start, measure: Callable[[], Measurement]
    ) -> Measurement:
        """A measurement from disk, or made now; a failure is one with a reason.

        What is kept is the price of the cell's own work: the same weights may have been come by at
        different prices, such as the open expert's, which alignment gives back to the bit.
        """
        path = self._path(about, subject.model)
        if known := self._found(path, subject.price):
            return known
        start = time.perf_counter()
        lasting = True
        try:
            found = measure()
        except FAULTS as error:
            check_device(error)
            passing = isinstance(error, PluginError) or device.is_short_of_memory(error)
            found, lasting = failed(error), self.keeps_failures and not passing
        self.inputs.evaluator.forget()
        found = replace(found, seconds=time.perf_counter() - start)
        kept = ("label", "about", "tried", "seconds", "reason", "dropped")
        content = {name: getattr(found, name) for name in kept}
        if lasting:  # a plugin's network may be there the next time, or more memory
            store.keep(path, {**content, "price": asdict(found.price)})
        return replace(found, price=subject.price + found.price)

    def _found(self, path: Path, before: Price) -> Measurement | None:
        """A measurement from disk; None if it, or a score of it, is not there or is damaged."""
        known = store.kept(path)
        if known is None:
            return None
        found = Measurement(price=before + Price(**known.pop("price")), **known)
        if found.reason:
            return found
        evaluator = self.inputs.evaluator
        if not evaluator.are_known(found.about, "test"):
            return None
        return replace(found, scores=evaluator.scores(found.about, _unavailable, "test"))

    def _identity(self, attack: Attack, subject: Model, variant: Variant) -> str:
        """A hash of all that a variant was made from: whatever the thief holds, and our code."""
        made = {"attack": attack.name, "variant": variant.label}
        return store.digest({**made, **self._surroundings(subject)})

    def _surroundings(self, subject: Model) -> dict[str, Any]:
        candidates = self.inputs.candidates
        return {
            "subject": subject.identity,
            "base": candidates.base.identity,
            "peers": [peer.identity for peer in candidates.peers],
            "inputs": candidates.inputs,
            "seed": candidates.seed,
            "code": code_digest(),
        }

    def _path(self, about: Mapping[str, Any], subject: Model) -> Path:
        evaluator = self.inputs.evaluator
        tasks = [task.content_hash for task in evaluator.tasks]
        known = {**evaluator.fingerprint, **self._surroundings(subject)}
        return self.folder / f"{store.digest({**known, 'cell': about, 'tasks': tasks})[:32]}.json"


@dataclass(frozen=True, eq=False)
class _Race:
    """The best of the candidates, how many there were, and the seconds of a merge."""

    best: Found
    tried: int
    seconds: float


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
