"""The benchmark's answer in three sentences, made from its figures alone."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from unmergeable.auditing.controls import MERGEABLE
from unmergeable.auditing.verdict import BROKEN
from unmergeable.bench.field.columns import CEILINGS, PAIR_GROUP
from unmergeable.bench.field.defences import NONE, FieldDefence
from unmergeable.bench.field.results import Figure, Results


def answer(results: Results) -> list[str]:
    """Three sentences: what stops merge tools, what survives alignment, what theft costs then.

    A defence stops an attack where the best merge is worth less than half of the best merge of the
    open expert. Fewer sentences where not enough was measured. The control is no defence, and is
    not counted.
    """
    opened = results.best(NONE, ("none",))
    if opened is None or opened.value <= 0:
        return ["Nothing can be said yet: no merge of the open expert has been measured."]
    names: dict[str, list[str]] = {part: [] for part in ("stop", "let", "hold", "fall", "refuse")}
    seconds: list[float] = []
    held: list[Figure] = []
    for defence in results.defences:
        if defence is NONE or defence.control:
            continue
        released = results.best(defence, ("none",))
        freed = results.best(defence, ("none", *results.data_free))
        if released is None and freed is not None:
            names["refuse"].append(spoken(defence))
        elif released is not None:
            side = "let" if broken(released, opened) else "stop"
            names[side].append(spoken(defence) + close(released, opened))
        aligned = results.best(defence, results.data_free)
        if freed is None or aligned is None:
            continue
        if broken(freed, opened):
            names["fall"].append(spoken(defence) + close(freed, opened))
            seconds += [aligned.price["seconds"]] if broken(aligned, opened) else []
        else:
            names["hold"].append(spoken(defence) + close(freed, opened))
            found = results.best(defence, (*results.with_data, *CEILINGS))
            held += [found] if found else []
    return [
        *_doubts(results, opened),
        _released(names, *results.counts),
        _aligned(names),
        _price(results, opened, seconds, held),
    ]


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


def conclusion(results: Results, defence: FieldDefence) -> str:
    """What a reader takes from a row: one clause, or empty where too little was measured."""
    opened = results.best(NONE, ("none",))
    released = results.best(defence, ("none",))
    aligned = results.best(defence, results.data_free)
    if opened is None or opened.value <= 0:
        return ""
    if defence.control:
        return "is the control of those that train"
    if released is not None and broken(released, opened):
        if defence is NONE:
            return "merges well"
        return "does not stop merge tools" + close(released, opened)
    if aligned is None:
        return ""
    how = "stops merge tools" if released is not None else "is refused by merge tools"
    if broken(aligned, opened):
        return f"{how}, falls to alignment{close(aligned, opened)}"
    return f"{how}, holds against alignment{close(aligned, opened)}"


def broken(figure: Figure, opened: Figure) -> bool:
    """Whether a theft takes half of what the open expert's best merge is worth, or more."""
    return figure.value >= BROKEN * opened.value


def close(figure: Figure, opened: Figure) -> str:
    """Words for a figure whose interval holds the border between a theft and none; else empty."""
    border = BROKEN * opened.value
    return " (a close call)" if figure.low < border < figure.high else ""


def _released(names: dict[str, list[str]], done: int, planned: int) -> str:
    stop = [*names["stop"], *(f"{name} (refused by them altogether)" for name in names["refuse"])]
    first = f"An unmodified merge tool is stopped by {listed(stop)}"
    if done < planned:  # a method that was not tried yet may do better
        first = f"So far, with {done} of {planned} cells measured, a{first[1:]}"
    return f"{first}; {listed(names['let'])} let it have half of the open merge's worth or more."


def _aligned(names: dict[str, list[str]]) -> str:
    if not names["hold"] and not names["fall"]:
        return "Alignment has not been measured yet."
    hold, fall = names["hold"], names["fall"]
    return (
        f"After the best attack without data, {listed(hold) if hold else 'no defence'} still "
        f"{'hold' if len(hold) > 1 else 'holds'}, and {listed(fall)} "
        f"{'do' if len(fall) != 1 else 'does'} not."
    )


def _price(
    results: Results, opened: Figure, seconds: Sequence[float], held: Sequence[Figure]
) -> str:
    parts = []
    if seconds:
        parts.append(
            f"theft then costs {statistics.median(seconds):.0f} seconds in the median and no data"
        )
    for figure in held:
        taken = figure.value / opened.value
        parts.append(
            f"where alignment fails, the best attack with data takes {taken:.0%} at {price(figure)}"
        )
    ceiling = results.best(NONE, CEILINGS)
    if ceiling is not None:
        parts.append(
            "what open weights always allow, without a merge, reaches "
            f"V = {ceiling.value:.2f} at {price(ceiling)}"
        )
    sentence = "; ".join(parts) or "the price of theft has not been measured yet"
    return sentence[0].upper() + sentence[1:] + "."


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
