"""The verdict: a pure function of what was measured, with three answers.

*Broken*: some attack, or a plain merge, takes half of what the open merge is worth, or more.
*Holds*, by what was run: only where nothing that `_objections` lists speaks against it.
*Undecided*: anything else, with what would decide it. That an attack failed is never "holds".
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from unmergeable.attacks.attack import COORDINATE_FREE
from unmergeable.evaluation.value import Estimate, strength

# A theft of half of what the unprotected merge is worth is a theft.
BROKEN = 0.5
WIDE = 0.3  # an interval of the worst theft that wide says little
# How far from the base the aligned model may be, in the open expert's own distance. Alignment of an
# exact lock leaves 1.0 of it; what it cannot undo leaves several times as much. As much is allowed
# of each layer by itself, or one layer of many could be moved unseen.
NEAR = 1.5
ROUNDED = 0.01  # of a layer's norm: what rounding may leave where fine-tuning moved nothing
CONTROLS = (
    "experts learned",
    "tasks differ",
    "release works",
    "alignment undoes a lock",
    "open expert merges",
)
# Of its gain, what the release itself must keep: where it lost more, a merge of it cannot be worth
# what the open expert's is, and a low theft says little.
WHOLE = 0.9
_TOLD = 3  # objections in the sentence; all of them are in the report

Answer = Literal["broken", "holds", "undecided"]


@dataclass(frozen=True)
class Reached:
    """What a thief got by one attack and one merge method.

    Attributes:
        attack: its name.
        title: of the attack, for people.
        stage: how expensive the attack is: "none", "align", "data-free", "text" or "labels".
        method: the merge method's name.
        value: V.
        theft: V over that of the best merge of the open expert.
        price: seconds, labelled, unlabelled and flops, as in the report.
    """

    attack: str
    title: str
    stage: str
    method: str
    value: Estimate
    theft: Estimate
    price: Mapping[str, Any]

    @property
    def seconds(self) -> float:
        """What it costs."""
        return float(self.price["seconds"] or 0.0)

    @property
    def strength(self) -> tuple[float, float, float]:
        """What the strongest is chosen by."""
        return strength(self.value.value, self.price, self.value.low)


@dataclass(frozen=True)
class Layer:
    """How far one layer is from the base's, relative to that one's norm.

    Attributes:
        name: as the report calls it: a number, or what else stands in its place.
        expert: the open expert's; None where it is not finite.
        aligned: the aligned model's.
    """

    name: str
    expert: float | None
    aligned: float | None

    @property
    def near(self) -> bool:
        """Whether fine-tuning may have left it there."""
        if self.expert is None or self.aligned is None:
            return False
        return self.aligned <= NEAR * max(self.expert, ROUNDED)

    @property
    def title(self) -> str:
        """What a sentence calls it."""
        return f"layer {self.name}" if self.name.isdigit() else self.name


@dataclass(frozen=True)
class Facts:
    """All that a verdict is decided by.

    Attributes:
        reached: what every attack reached; methods that deploy more than one model do not count.
        ceilings: seconds and theft of each point of what open weights always allow.
        failed: what ran on the release and failed, a clause each.
        left_out: parts of the ensemble that did not run, and what would make them run.
        controls: which positive controls were run, and whether each passed.
        expert: the open expert's distance to the base, relative to the base's norm.
        aligned: the aligned model's; None where alignment failed.
        layers: the distances of both, layer by layer; all that is outside of layers is one more.
        suspicious: whether alignment itself calls that too far for a fine-tune.
        distant: of the open expert and the peers, those too far from the base, a clause each, and
            what to give instead.
        free: which attacks of `COORDINATE_FREE` ran with text.
        doubts: what is wrong with the test items, and what would mend it.
        retained: of what the expert learned, the share that the release alone does; None where it
            is not known.
    """

    reached: tuple[Reached, ...] = ()
    ceilings: tuple[tuple[float, float], ...] = ()
    failed: tuple[str, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()
    controls: Mapping[str, bool] = field(default_factory=dict)
    expert: float | None = None
    aligned: float | None = None
    layers: tuple[Layer, ...] = ()
    suspicious: bool = False
    distant: tuple[tuple[str, str], ...] = ()
    free: frozenset[str] = frozenset()
    doubts: tuple[tuple[str, str], ...] = ()
    retained: float | None = None

    @property
    def near(self) -> bool:
        """Whether alignment brought the release as near to the base as fine-tuning leaves it.

        As a whole and in every layer: where most of a model is in place, the whole hides the rest.
        """
        if self.suspicious or self.aligned is None or not self.expert or not self.layers:
            return False
        return self.aligned <= NEAR * self.expert and not self.moved

    @property
    def moved(self) -> tuple[Layer, ...]:
        """The layers that fine-tuning does not leave where they are."""
        return tuple(layer for layer in self.layers if not layer.near)


@dataclass(frozen=True)
class Verdict:
    """An answer, and what it rests on.

    Attributes:
        answer: "broken", "holds" or "undecided".
        sentence: for people.
        level: of the ladder of protection (design, section 4), where one can be told: 0, an
            unmodified merge tool is enough; 1, alignment or data-free repair; 2, an attack with
            data, cheaper than the ceilings; 3, no attack that ends in a merge is.
        best: the worst case for the owner; of thefts as good as that, the cheapest; None where no
            merge could be measured.
        reasons: why the answer is what it is, a clause each.
        needs: what would decide it; empty unless it is undecided.
    """

    answer: Answer
    sentence: str
    level: int | None
    best: Reached | None
    reasons: tuple[str, ...]
    needs: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """For JSON."""
        best = self.best
        return {
            "sentence": self.sentence,
            "answer": self.answer,
            "broken": self.answer == "broken",
            "reasons": list(self.reasons),
            "needs": list(self.needs),
            "level": self.level,
            "value": best and best.value.document(),
            "theft": best and best.theft.document(),
            "attack": best and best.attack,
            "method": best and best.method,
            "price": best and dict(best.price),
        }


def decide(facts: Facts) -> Verdict:
    """The verdict on some facts."""
    for level, stages in ((0, ("none",)), (1, ("align", "data-free")), (2, ("text", "labels"))):
        found = [each for each in facts.reached if each.stage in stages and _takes(each)]
        cheaper = [each for each in found if level < 2 or _beats(each, facts.ceilings)]
        if found:
            worst, reached = _best(cheaper or found), level if cheaper else 3
            return Verdict(
                "broken", _broken(reached, worst, facts), reached, worst, (_took(worst),)
            )
    best = _best(facts.reached) if facts.reached else None
    objections = list(_objections(facts))
    if best is None or objections:
        reasons, needs = zip(*objections, strict=True)
        wanted = tuple(dict.fromkeys(needs))
        sentence = _undecided(reasons, wanted, best, facts)
        return Verdict("undecided", sentence, None, best, reasons, wanted)
    sentence, top = _holds(best, facts), 3 if facts.ceilings else None
    return Verdict("holds", sentence, top, best, tuple(_grounds(facts)))


def _objections(facts: Facts) -> Iterable[tuple[str, str]]:
    """What keeps "not broken" from being "holds", each with what would decide it."""
    if not facts.reached:
        yield (
            "no merge of the protected model could be measured",
            "see in the report why every merge failed",
        )
    for name in CONTROLS:
        if name not in facts.controls:
            yield f"the control {name!r} was not run", f"run the control {name!r}"
    for name, passed in facts.controls.items():
        if not passed:
            yield f"the control {name!r} failed", f"mend what the control {name!r} measures"
    yield from facts.distant
    for what in facts.failed:
        yield f"{what} failed", "find out why it fails on this release: the report has the reasons"
    for what, need in facts.left_out:
        yield f"{what} did not run", need
    yield from facts.doubts
    if facts.retained is None or not facts.retained >= WHOLE:
        much = "an unknown share" if facts.retained is None else f"{facts.retained:.0%}"
        yield (
            f"the release alone keeps {much} of what the expert learned, so that a merge of it "
            "can be worth no more",
            "release a model that does the task as well as the original",
        )
    high = max((each.theft.high for each in facts.reached), default=0.0)
    if not high < BROKEN:
        yield (
            f"theft may be as much as {high:.0%} by the upper end of an interval",
            "score on more test items",
        )
    wide = max((each.theft.high - each.theft.low for each in facts.reached), default=0.0)
    if wide > WIDE:
        yield f"an interval of theft is {wide:.2f} wide", "score on more test items"
    absent = [title for name, title in COORDINATE_FREE.items() if name not in facts.free]
    if not facts.near and absent:
        yield (
            f"{_far(facts)}, and {' and '.join(absent)} did not run with text",
            "give the task file texts of the kind in-domain, or an alignment that undoes this",
        )


def _grounds(facts: Facts) -> Iterable[str]:
    """What "holds" rests on."""
    yield "every attack of the ensemble ran to its end, and every control passed"
    high = max(each.theft.high for each in facts.reached)
    yield f"no interval of theft reaches above {high:.0%}"
    if facts.near:
        yield "the aligned model is as near to the base as fine-tuning leaves it, in every layer"
    else:
        ran = " and ".join(COORDINATE_FREE.values())
        yield f"{_far(facts)}, and {ran} ran with text and failed too"


def _far(facts: Facts) -> str:
    """Why the aligned model does not count as near to the base."""
    if facts.aligned is None:
        return "alignment failed on this release"
    much = f"after alignment the release is {facts.aligned:.1%} of the base's norm away from it"
    if not facts.expert:
        return f"{much}, and how far fine-tuning leaves the expert is not known"
    much = f"{much}, where the open expert is {facts.expert:.1%}"
    if not facts.layers:
        return f"{much}, and how far each layer is from the base's is not known"
    if not facts.moved or len(facts.moved) == len(facts.layers):
        return much
    named = _some([layer.title for layer in facts.moved], ", ")
    worst = max(facts.moved, key=_distance)
    return (
        f"{much}; of {len(facts.layers)} layers, fine-tuning leaves no such distance in {named} "
        f"(up to {_share(worst.aligned)}, where the open expert's is {_share(worst.expert)})"
    )


def _distance(layer: Layer) -> float:
    return float("inf") if layer.aligned is None else layer.aligned


def _share(distance: float | None) -> str:
    return "infinity" if distance is None else f"{distance:.1%}"


def _best(found: Sequence[Reached]) -> Reached:
    """The one that a verdict names: of those as good as the strongest, the cheapest.

    As good is what takes no less than the strongest by the lower end of its interval, and is a
    theft itself. Where nothing is one, it is the strongest: the worst case, whatever it costs.
    """
    strongest = max(found, key=lambda each: each.strength)
    alike = [each for each in found if _takes(each) and each.theft.value >= strongest.theft.low]
    return max(alike or [strongest], key=lambda each: (-each.seconds, each.strength))


def _takes(each: Reached) -> bool:
    return each.theft.value >= BROKEN


def _beats(each: Reached, ceilings: Sequence[tuple[float, float]]) -> bool:
    """Whether an attack is cheaper than every ceiling that takes as much."""
    rivals = [seconds for seconds, theft in ceilings if theft >= each.theft.value]
    return bool(each.price["seconds"] < min(rivals, default=float("inf")))


def _took(best: Reached) -> str:
    theft = best.theft
    return (
        f"{best.method} reaches V = {best.value.value:.2f}, {theft.value:.0%} "
        f"({theft.low:.0%} to {theft.high:.0%}) of what the best merge of the unprotected expert "
        "is worth"
    )


def _broken(level: int, best: Reached, facts: Facts) -> str:
    seconds, data, plain = _time(best.price["seconds"]), _data(best.price), _plain(facts)
    if level == 0:
        return f"Not protected: merged as released, {_took(best)}."
    if level == 1:
        return f"Broken in {seconds} and {data}: after {best.title}, {_took(best)}{plain}."
    than = "less than" if level == 2 else "no less than"
    return (
        f"Broken with data: {best.title} costs {seconds} and {data}, {than} what open weights "
        f"always allow, and {_took(best)}{plain}."
    )


def _holds(best: Reached, facts: Facts) -> str:
    far = ""
    if not facts.near:
        far = (
            f" {_upper(_far(facts))}. So this rests on the attacks that need no common "
            f"coordinates: {' and '.join(COORDINATE_FREE.values())} ran with text and failed too."
        )
    return (
        f"Holds, by what was run, which was every attack of the ensemble: at worst, with "
        f"{best.title}, {_took(best)}{_plain(facts)}.{far}"
    )


def _undecided(
    reasons: Sequence[str], needs: Sequence[str], best: Reached | None, facts: Facts
) -> str:
    worst = ""
    if best is not None:
        worst = f" At worst, with {best.title}, {_took(best)}{_plain(facts)}."
    return (
        f"Undecided, and not a sign of protection: {_some(reasons)}.{worst} To decide it: "
        f"{_some(needs)}."
    )


def _some(clauses: Sequence[str], between: str = "; ") -> str:
    """The first few clauses, and how many there are besides."""
    more = len(clauses) - _TOLD
    return between.join([*clauses[:_TOLD], *([f"and {more} more"] if more > 0 else [])])


def _plain(facts: Facts) -> str:
    """What the merge tools get of the model as it was released, if that was measured."""
    released = [each for each in facts.reached if each.stage == "none"]
    if not released:
        return ""
    return f"; an unmodified merge tool gets V = {_best(released).value.value:.2f}"


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"


def _data(price: Mapping[str, Any]) -> str:
    parts = [f"{price[kind]} {kind} items" for kind in ("labelled", "unlabelled") if price[kind]]
    return " and ".join(parts) or "without data"


def _upper(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]
