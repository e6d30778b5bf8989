"""Settings of a defence as they are given: from Python, or as strings from a command line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from unmergeable.errors import InputError


def check_known(given: Mapping[str, Any], settings: Mapping[str, str], defence: str) -> None:
    """Refuses settings that a defence does not have.

    Raises:
        InputError: the first of them.
    """
    if unknown := sorted(given.keys() - settings.keys()):
        raise InputError(f"{defence} has no setting {unknown[0]!r}; it has {', '.join(settings)}.")


def choice(given: Mapping[str, Any], name: str, choices: Sequence[str]) -> str:
    """One of some words; the first is the default."""
    value = given.get(name, choices[0])
    if value not in choices:
        raise InputError(f"{name}={value!r}: choose {', '.join(choices[:-1])} or {choices[-1]}.")
    return str(value)


def flag(given: Mapping[str, Any], name: str) -> bool:
    """True or false; false is the default."""
    value = str(given.get(name, False)).lower()
    if value not in ("true", "false"):
        raise InputError(f"{name}={given[name]!r}: choose true or false.")
    return value == "true"


def positive(given: Mapping[str, Any], name: str, default: float) -> float:
    """A finite number above zero."""
    value = given.get(name, default)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not 0 < number < math.inf:
        raise InputError(f"{name}={value!r}: give a number above 0.")
    return number
