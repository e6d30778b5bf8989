"""Settings: each is declared once, and read, checked and described from that.

A defence, a merge method and whatever else takes `--set NAME=VALUE` holds a mapping of names to
these. `read` makes values of what a command line or a caller gives; `described` is for `--help`.

Examples:
    >>> from unmergeable.settings import Choice, Number, described, read
    >>> known = {"rate": Number("how fast", 0.5), "kind": Choice("how", "a", choices=("a", "b"))}
    >>> read(known, {"rate": "0.25"}, "it")
    {'rate': 0.25, 'kind': 'a'}
    >>> described(known)
    [('rate', 'how fast [default: 0.5]'), ('kind', 'how [default: a]')]
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from unmergeable.errors import InputError


class Wording(NamedTuple):
    """How a command words what is wrong with a setting."""

    unknown: str = "{owner} has no setting {name!r}; it has {known}."
    choice: str = "{name}={given!r}: choose {either}."


WORDING = Wording()


@dataclass(frozen=True)
class Setting:
    """A setting that takes any value; its owner checks it.

    Attributes:
        help: for people, without the default.
        default: the value where none is given; None where the model decides, or where there is
            none.
        auto: what None stands for.
    """

    help: str
    default: Any = None
    auto: str = ""

    def read(self, name: str, given: Any, wording: Wording = WORDING) -> Any:
        """A value as it is used.

        Args:
            name: of the setting.
            given: from a caller, or a string from a command line; None for the default.
            wording: of errors.

        Raises:
            InputError: a value that cannot be.
        """
        return self.default if given is None else self.checked(name, given, wording)

    def checked(self, name: str, given: Any, wording: Wording) -> Any:
        """As `read`, of a value that was given."""
        return given


@dataclass(frozen=True)
class Choice(Setting):
    """One of some words.

    Attributes:
        choices: the words.
    """

    choices: Sequence[str] = ()

    def checked(self, name: str, given: Any, wording: Wording) -> str:
        """See `Setting`."""
        if given not in self.choices:
            *others, last = self.choices
            listed = {"either": f"{', '.join(others)} or {last}", "all": ", ".join(self.choices)}
            raise InputError(wording.choice.format(name=name, given=given, **listed))
        return str(given)


@dataclass(frozen=True)
class Flag(Setting):
    """True or false."""

    default: bool = False

    def checked(self, name: str, given: Any, wording: Wording) -> bool:
        """See `Setting`."""
        value = str(given).lower()
        if value not in ("true", "false"):
            raise InputError(f"{name}={given!r}: choose true or false.")
        return value == "true"


@dataclass(frozen=True)
class Number(Setting):
    """A finite number.

    Attributes:
        low: the least.
        high: the greatest.
        above: whether it must be above `low`.
        whole: whether it must be a whole one.
        words: what may stand in its place.
    """

    low: float = 0.0
    high: float = math.inf
    above: bool = False
    whole: bool = False
    words: tuple[str, ...] = ()

    def checked(self, name: str, given: Any, wording: Wording) -> float | int | str:
        """See `Setting`."""
        if isinstance(given, str) and given in self.words:
            return given
        value = _number(given)
        inside = value is not None and math.isfinite(value) and self.low <= value <= self.high
        if self.above and (not inside or value == self.low):
            most = f", up to {self.high:g}" if math.isfinite(self.high) else ""
            raise InputError(f"{name}={given!r}: give a number above {self.low:g}{most}.")
        if value is None:
            raise InputError(f"{name} is {given!r}, which is not a number.")
        if not inside:
            raise InputError(f"{name} is {value:g}: it must lie in [{self.low:g}, {self.high:g}].")
        if self.whole and not value.is_integer():
            raise InputError(f"{name}={value!r}: give a whole number.")
        return int(value) if self.whole else value


def _number(given: Any) -> float | None:
    try:
        return None if isinstance(given, bool) else float(given)
    except (TypeError, ValueError):
        return None


def read(
    settings: Mapping[str, Setting],
    given: Mapping[str, Any],
    owner: str,
    wording: Wording = WORDING,
) -> dict[str, Any]:
    """Every setting, as given or by default.

    Args:
        settings: those that there are, by name.
        given: values by name.
        owner: whose they are, for the message.
        wording: of errors.

    Raises:
        InputError: a name that is unknown, or a value that cannot be.
    """
    check_known(settings, given, owner, wording)
    return {name: one.read(name, given.get(name), wording) for name, one in settings.items()}


def check_known(
    settings: Mapping[str, Any],
    given: Mapping[str, Any],
    owner: str,
    wording: Wording = WORDING,
) -> None:
    """Refuses names that are none of the settings.

    Raises:
        InputError: the first of them.
    """
    if unknown := sorted(given.keys() - settings.keys()):
        known = ", ".join(settings) or "none"
        raise InputError(wording.unknown.format(owner=owner, name=unknown[0], known=known))


def described(settings: Mapping[str, Setting]) -> list[tuple[str, str]]:
    """Names with their help and default, for people."""
    return [(name, f"{one.help} [default: {shown(one)}]") for name, one in settings.items()]


def shown(setting: Setting) -> str:
    """A setting's default, as one would type it."""
    default = setting.default
    if default is None:
        return setting.auto or "none"
    return str(default).lower() if isinstance(default, bool) else str(default)


def from_text(text: str) -> Any:
    """A value of any kind from a command line: JSON, or numbers with commas between.

    Raises:
        ValueError: neither.
    """
    try:
        return json.loads(text)
    except ValueError:
        return json.loads(f"[{text}]")
