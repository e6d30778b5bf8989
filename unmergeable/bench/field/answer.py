"""The benchmark's answer in three sentences, made from its figures alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from unmergeable.auditing.controls import MERGEABLE
from unmergeable.auditing.verdict import BROKEN
from unmergeable.bench.field.columns import CEILINGS, PAIR_GROUP
from unmergeable.bench.field.defences import NONE, FieldDefence
from unmergeable.bench.field.results import Figure, Results

State = Literal["broken", "holds", "undecided"]
_Row = tuple[FieldDefence, Figure]
_Measured = tuple[FieldDefence, Figure | None]


def answer(results: Results) -> list[str]:
    """Three sentences: what stops merge tools, what survives alignment, what theft costs then.

    Each group of defences has its worst figure for whom the sentence is good news: of those that
    hold, the highest end of an interval; of those that do not, the least that a thief gets. Fewer
    sentences where not enough was measured. The control is no defence, and is not counted.
    """
    opened = results.best(NONE, ("none",))
    if opened is None or opened.theft is None:
        return ["Nothing can be said yet: no merge of the open expert has been measured."]
    rows = [row for row in results.defences if row is not NONE and not row.control]
    released = [(row, results.best(row, ("none",))) for row in rows]
    freed = [
        (row, results.best(row, ("none", *results.data_free)))
        for row in rows
        if results.best(row, results.data_free) is not None
    ]
    return [
        *_doubts(results, opened),
        _released(_found(released), _refused(released, freed), *results.counts),
        _aligned(_found(freed)),
        _price(results, _found(freed)),
    ]


def state(figure: Figure) -> State:
    """Whether a theft takes half of what the open expert's best merge is worth, or more.

    As in the audit's verdict, "holds" needs the upper end of the worst interval below half, not
    the figure alone.
    """
    if figure.theft is None:
        return "undecided"
    if figure.theft.value >= BROKEN:
        return "broken"
    return "holds" if figure.theft.high < BROKEN else "undecided"


def conclusion(results: Results, defence: FieldDefence) -> str:
    """What a reader takes from a row: one clause, or empty where too little was measured."""
    opened = results.best(NONE, ("none",))
    released = results.best(defence, ("none",))
    aligned = results.best(defence, results.data_free)
    if opened is None or opened.theft is None:
        return ""
    if defence.control:
        return "is the control of those that train"
    if released is not None and state(released) == "broken":
        if defence is NONE:
            return "merges well"
        return "does not stop merge tools" + close(released)
    if aligned is None:
        return ""
    how = "is refused by merge tools"
    if released is not None:
        how = "stops merge tools" if state(released) == "holds" else "may stop merge tools"
    then = {
        "broken": "falls to alignment",
        "holds": "holds against alignment",
        "undecided": "may hold against alignment",
    }
    return f"{how}, {then[state(aligned)]}{close(aligned)}"


def close(figure: Figure) -> str:
    """Words for a theft whose interval reaches below half; else empty."""
    if figure.theft is None or state(figure) != "broken" or figure.theft.low >= BROKEN:
        return ""
    return " (a close call)"


def _found(rows: Sequence[_Measured]) -> Mapping[State, list[_Row]]:
    """Rows with their figures, by what these say."""
    found: dict[State, list[_Row]] = {"broken": [], "holds": [], "undecided": []}
    for row, figure in rows:
        if figure is not None:
            found[state(figure)].append((row, figure))
    return found


def _refused(released: Sequence[_Measured], freed: Sequence[_Measured]) -> list[str]:
    """Rows that no merge tool takes as they are, and that an attack makes mergeable."""
    after = {row.name for row, _ in freed}
    return [spoken(row) for row, found in released if found is None and row.name in after]


def _doubts(results: Results, opened: Figure) -> list[str]:
    """A sentence before the others where a positive control failed; they may then say nothing."""
    cell = results.singles(PAIR_GROUP)
    failed = (
        [control["title"] for control in cell["controls"] if not control["passed"]] if cell else []
    )
    if opened.value < MERGEABLE:
        failed.append("the unprotected expert merges well with the same tools")
    if not failed:
        return []
    return [
        f"(A positive control failed, so this says little: it should hold that {listed(failed)}.)"
    ]


def _released(
    found: Mapping[State, list[_Row]], refused: Sequence[str], done: int, planned: int
) -> str:
    stop = [*_names(found["holds"]), *(f"{name} (refused by them altogether)" for name in refused)]
    first = f"An unmodified merge tool is stopped by {listed(stop)}{_most(found['holds'])}"
    if done < planned:  # a method that was not tried yet may do better
        first = f"So far, with {done} of {planned} cells measured, a{first[1:]}"
    let = _names(found["broken"])
    return (
        f"{first}; {listed(let)} let{'s' if len(let) == 1 else ''} it have half of what the open "
        f"merge is worth or more{_least(found['broken'])}{_undecided(found)}."
    )


def _aligned(found: Mapping[State, list[_Row]]) -> str:
    if not any(found.values()):
        return "Alignment has not been measured yet."
    hold, fall = _names(found["holds"]), _names(found["broken"])
    return (
        f"After the best attack without data, {listed(hold) if hold else 'no defence'} still "
        f"{'hold' if len(hold) > 1 else 'holds'}{_most(found['holds'])}, and {listed(fall)} "
        f"{'do' if len(fall) != 1 else 'does'} not{_least(found['broken'])}{_undecided(found)}."
    )


def _price(results: Results, freed: Mapping[State, list[_Row]]) -> str:
    parts = []
    aligned = [results.best(row, results.data_free) for row, _ in freed["broken"]]
    taken = sorted(
        (one for one in aligned if one is not None and state(one) == "broken"),
        key=lambda one: float(one.price["seconds"]),
    )
    if taken:
        middle, least, most = taken[(len(taken) - 1) // 2], taken[0], taken[-1]
        span = (
            f", from {least.price['seconds']:.1f} s ({codes(least)}) to "
            f"{most.price['seconds']:.1f} s ({codes(most)})"
        )
        parts.append(
            f"theft then costs {middle.price['seconds']:.1f} s in the median and no data, for "
            f"{told(middle)}{span if len(taken) > 1 else ''}"
        )
    for row, _ in (*freed["holds"], *freed["undecided"]):
        found = results.best(row, (*results.with_data, *CEILINGS))
        if found is not None:
            parts.append(
                f"from {spoken(row)}, the best attack with data takes {told(found)} at "
                f"{price(found)}"
            )
    ceiling = results.best(NONE, CEILINGS)
    if ceiling is not None:
        parts.append(
            "what open weights always allow, without a merge, reaches "
            f"{told(ceiling)} at {price(ceiling)}"
        )
    sentence = "; ".join(parts) or "the price of theft has not been measured yet"
    return sentence[0].upper() + sentence[1:] + "."


def _most(rows: Sequence[_Row]) -> str:
    """The figure that reaches highest."""
    if not rows:
        return ""
    worst = max((figure for _, figure in rows), key=lambda one: one.theft.high if one.theft else 0)
    return f", {'in the worst case ' if len(rows) > 1 else ''}at {told(worst)}"


def _least(rows: Sequence[_Row]) -> str:
    """The figure of those that fall that is the least."""
    if not rows:
        return ""
    least = min((figure for _, figure in rows), key=lambda one: one.theft.value if one.theft else 0)
    return f", with {'at least ' if len(rows) > 1 else ''}{told(least)}"


def _undecided(found: Mapping[State, list[_Row]]) -> str:
    rows = [f"{spoken(row)} ({told(figure)})" for row, figure in found["undecided"]]
    return f"; undecided, as intervals reach half: {listed(rows)}" if rows else ""


def told(figure: Figure) -> str:
    """A theft with its interval and the cells that it came from, for sentences."""
    if figure.theft is None:
        return f"an unknown share ({codes(figure)})"
    found = figure.theft
    return f"{found.value:.0%} ({found.low:.0%} to {found.high:.0%}; {codes(figure)})"


def codes(figure: Figure) -> str:
    """The codes of the cells that a figure came from, and of those that its upper end is of."""
    own, top = (" ".join(f"`{key[:8]}`" for key in keys) for keys in (figure.keys, figure.top))
    return f"{own} to {top}" if top else own


def _names(rows: Sequence[_Row]) -> list[str]:
    return [spoken(row) for row, _ in rows]


def price(figure: Figure) -> str:
    """Seconds and items, for people."""
    found = figure.price
    parts = [f"{found['seconds']:.0f} s"]
    parts += [f"{found[kind]} {kind}" for kind in ("labelled", "unlabelled") if found[kind]]
    return ", ".join(parts)


def spoken(defence: FieldDefence) -> str:
    """A defence's title as it can stand in a list with commas."""
    name, comma, kind = defence.title.partition(", ")
    return f"{name} ({kind})" if comma else name


def listed(names: Sequence[str]) -> str:
    """Names with commas between; "none" for none."""
    if len(names) < 2:
        return names[0] if names else "none"
    return f"{', '.join(names[:-1])} and {names[-1]}"
