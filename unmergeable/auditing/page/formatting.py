"""Figures as people read them; pages and the model card say them alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unmergeable.auditing.report.schema import Estimate, Price, Score

NONE = "–"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

LEVELS = (
    "An unmodified merge tool is enough.",
    "Alignment, or another repair without data, is enough.",
    "It takes an attack with data, still cheaper than what open weights always allow.",
    "No attack that ends in a merge is cheaper than distilling or fine-tuning the release.",
)


def headline(sentence: str) -> tuple[str, str]:
    """A long sentence as its beginning, to be set large, and what follows its colon."""
    head, colon, rest = sentence.partition(": ")
    if len(sentence) <= 110 or not colon or len(head) > 90:
        return sentence, ""
    return head, rest


def number(value: float | None) -> str:
    """Two decimals, without a negative zero."""
    return NONE if value is None else f"{round(value, 2) + 0.0:.2f}"


def value(estimate: Estimate | None) -> str:
    """The figure alone."""
    return NONE if estimate is None else number(estimate["value"])


def interval(estimate: Estimate | None) -> str:
    """Its interval, or nothing when there is none."""
    if estimate is None or estimate["low"] is None or estimate["high"] is None:
        return ""
    return f"{number(estimate['low'])} to {number(estimate['high'])}"


def both(estimate: Estimate | None) -> str:
    """Figure and interval."""
    found = interval(estimate)
    return f"{value(estimate)} ({found})" if found else value(estimate)


def percent(share: float | None) -> str:
    """An accuracy."""
    return NONE if share is None else f"{share:.1%}"


def score(found: Score | None) -> str:
    """An accuracy with its interval."""
    if found is None or found["accuracy"] is None:
        return NONE
    if found["low"] is None or found["high"] is None:
        return percent(found["accuracy"])
    return f"{percent(found['accuracy'])} ({percent(found['low'])} to {percent(found['high'])})"


def seconds(spent: float | None) -> str:
    """A time in the unit that suits it."""
    if spent is None:
        return NONE
    if spent == 0:
        return "0 s"
    if spent < 0.1:
        return "under 0.1 s"
    for limit, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if spent < limit:
            figure = spent / unit
            return f"{figure:.1f} {name}" if figure < 9.95 else f"{figure:.0f} {name}"
    return f"{spent / 86400:.1f} days"


def data(price: Price) -> str:
    """The samples an attack needs."""
    parts = [f"{price[kind]:,} {kind}" for kind in ("labelled", "unlabelled") if price[kind]]
    return ", ".join(parts) or "no data"


def flops(price: Price | None) -> str:
    """Floating-point operations, as a power of ten."""
    if price is None or price["flops"] is None:
        return ""
    if price["flops"] < 1000:
        return f"{price['flops']:.0f} FLOPs"
    mantissa, exponent = f"{price['flops']:.1e}".split("e")
    return f"{mantissa} × 10{str(int(exponent)).translate(_SUPERSCRIPT)} FLOPs"


def cost(price: Price | None) -> str:
    """All of a price in one line."""
    if price is None:
        return NONE
    parts = (seconds(price["seconds"]), data(price), flops(price))
    return ", ".join(part for part in parts if part)


def settings(found: Mapping[str, Any] | None, inside: str = "") -> str:
    """Coefficients, flat."""
    parts = []
    for name, item in (found or {}).items():
        label = f"{inside}{name}"
        if isinstance(item, Mapping):
            parts.append(settings(item, f"{label}."))
        elif isinstance(item, list):
            parts.append(f"{label} = {' : '.join(map(_plain, item))}")
        else:
            parts.append(f"{label} = {_plain(item)}")
    return ", ".join(part for part in parts if part)


def _plain(item: Any) -> str:
    return f"{item:g}" if isinstance(item, float) else str(item)


def plural(count: int, name: str) -> str:
    """A count with its noun."""
    return f"{count:,} {name}{'' if count == 1 else 's'}"
