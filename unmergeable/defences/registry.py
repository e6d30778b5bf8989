"""The defences by name, and chains of those for a finished model: `params+mergelock`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unmergeable.defences.defence import Defence, GaugeDefence, Rebuild
from unmergeable.defences.mark import MarkDefence
from unmergeable.defences.training_defence import NoDefence, TrainingDefence
from unmergeable.errors import InputError
from unmergeable.registry import Registry, subclasses
from unmergeable.settings import Setting

GROUP = "unmergeable.defences"


def _is_named(one: Any) -> bool:
    return isinstance(one, type) and issubclass(one, Defence) and hasattr(one, "name")


DEFENCES: Registry[type[Defence]] = Registry(
    "unmergeable.defences",
    subclasses(Defence),
    GROUP,
    lambda one: "" if _is_named(one) else "is no Defence with a name",
)
# What every defence that a key draws takes, whichever it is.
COMMON = {
    "line": Setting(
        "a name. Models locked with one key in one line get the same lock, and so merge with each "
        "other by any tool; anyone who has one of them in both its open and its locked form can "
        "open all of them.",
        None,
        "none, a lock of its own for every model",
    ),
}
LINE = 200  # characters of a line's name, which every manifest holds


def gauge_defences() -> dict[str, type[GaugeDefence]]:
    """Those that keep the architecture of a finished model."""
    return {name: one for name, one in DEFENCES.items() if issubclass(one, GaugeDefence)}


def rebuilds() -> dict[str, type[Rebuild]]:
    """Those that change it: the last of a chain, if any."""
    return {name: one for name, one in DEFENCES.items() if issubclass(one, Rebuild)}


def finished_defences() -> dict[str, type[Defence]]:
    """Those that are put on a finished model."""
    kinds = (GaugeDefence, Rebuild, MarkDefence)
    return {name: one for name, one in DEFENCES.items() if issubclass(one, kinds)}


def training_defences() -> dict[str, type[TrainingDefence]]:
    """Those that are learned."""
    return {name: one for name, one in DEFENCES.items() if issubclass(one, TrainingDefence)}


def training_defence(name: str, settings: Mapping[str, Any] | None = None) -> TrainingDefence:
    """A defence that is learned, with its settings.

    Raises:
        InputError: a name or a setting that is unknown, a value that cannot be.
    """
    known = training_defences()
    if name in known:
        return known[name](settings)
    if name in DEFENCES:
        raise InputError(
            f"{name} is put on a finished model: train without it, and then run `unmergeable "
            f"protect --defence {name}` on what comes out."
        )
    raise InputError(f"there is no training defence {name!r}; there is {', '.join(known)}.")


@dataclass(frozen=True)
class Chosen:
    """The defences that a chain names, each with its own settings.

    Attributes:
        gauges: those that keep the architecture, in order.
        last: the one that changes it, if any.
        line: the line that they are drawn for; empty for a lock of its own.
        mark: settings of the mark that is put on before all of them; None for no mark.
    """

    gauges: tuple[tuple[GaugeDefence, Mapping[str, Any]], ...]
    last: tuple[Rebuild, Mapping[str, Any]] | None
    line: str = ""
    mark: Mapping[str, Any] | None = None


def chain_of(text: str, settings: Mapping[str, Any]) -> Chosen:
    """The defences that a chain names.

    Args:
        text: one name, or several with plus signs between.
        settings: by name; where several defences of the chain have one of that name, as
            `DEFENCE.NAME`. Those in `COMMON` are for the whole chain.

    Raises:
        InputError: an unknown defence, or one out of place; a setting that none or several of them
            have.
    """
    gauges, last_ones = gauge_defences(), rebuilds()
    known = finished_defences()
    names = text.split("+")
    for name in names:
        if name in training_defences() and name != NoDefence.name:
            raise InputError(
                f"{name} is learned, not put on a finished model: train one from the base with "
                f"`unmergeable train --defence {name} --base BASE --data FILE`. What comes out can "
                "then be locked."
            )
        if name not in known:
            raise InputError(f"no defence {name!r}; there is {', '.join(known)}.")
    if len(set(names)) < len(names):
        raise InputError(f"{text!r} names a defence twice: the second would add nothing.")
    if MarkDefence.name in names[1:]:
        raise InputError(
            f"a mark is added to the open model's weights: in {text!r} it must come first."
        )
    for name in names[:-1]:
        if name in last_ones:
            raise InputError(f"{name} changes the architecture: in {text!r} it must come last.")
    if names[0] == MarkDefence.name and names[-1] in last_ones:
        raise InputError(
            f"{names[-1]} makes other tensors of the weights, which would not have the mark: "
            f"protect with {MarkDefence.name} first, and then what comes out with {names[-1]}."
        )
    given: dict[str, dict[str, Any]] = {name: {} for name in names}
    line = settings.get("line", "")
    if "line" in settings and (not isinstance(line, str) or not 0 < len(line) <= LINE):
        raise InputError(f"line: give a name of 1 to {LINE} characters, not {str(line)[:20]!r}.")
    for setting, value in settings.items():
        if setting in COMMON:
            continue
        owner, own = _owner(setting, {name: known[name].settings for name in names}, text)
        given[owner][own] = value
    chosen = tuple((gauges[name](), given[name]) for name in names if name in gauges)
    last = names[-1]
    rebuild = (last_ones[last](), given[last]) if last in last_ones else None
    return Chosen(chosen, rebuild, line, given.get(MarkDefence.name))


def _owner(setting: str, known: Mapping[str, Mapping[str, Setting]], text: str) -> tuple[str, str]:
    """Which defence a setting is meant for, and its own name there."""
    name, dot, own = setting.partition(".")
    if dot and own in known.get(name, {}):
        return name, own
    owners = [name for name, settings in known.items() if setting in settings]
    if len(owners) == 1:
        return owners[0], setting
    if owners:
        raise InputError(
            f"{setting}: {' and '.join(owners)} have it; say which as {owners[0]}.{setting}."
        )
    several = len(known) > 1
    listed = [f"{name}.{one}" if several else one for name, s in known.items() for one in s]
    listed += COMMON
    raise InputError(f"{text} has no setting {setting!r}; it has {', '.join(listed)}.")
