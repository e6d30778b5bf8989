"""The post-hoc defences by name, and chains of them: `params+mergelock`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unmergeable.defences.defence import Defence, Rebuild
from unmergeable.defences.lock import Lock
from unmergeable.defences.mergebarrier.mergebarrier import MergeBarrier
from unmergeable.defences.mergelock import MergeLock
from unmergeable.defences.params import Params
from unmergeable.errors import InputError

DEFENCES: dict[str, Defence] = {
    defence.name: defence for defence in (Lock(), MergeLock(), Params())
}
# Those that change the architecture: the last of a chain, if any.
REBUILDS: dict[str, Rebuild] = {rebuild.name: rebuild for rebuild in (MergeBarrier(),)}
# What every defence that a key draws takes, whichever it is.
COMMON = {
    "line": "a name. Models locked with one key in one line get the same lock, and so merge with "
    "each other by any tool; anyone who has one of them in both its open and its locked form can "
    "open all of them. Default: none, a lock of its own for every model.",
}
LINE = 200  # characters of a line's name, which every manifest holds
# Those of `unmergeable train`, whose registry is `training.defences`; named here for messages only.
TRAINED = ("trap2", "arf", "mergeguard")


@dataclass(frozen=True)
class Chosen:
    """The defences that a chain names, each with its own settings.

    Attributes:
        gauges: those that keep the architecture, in order.
        last: the one that changes it, if any.
        line: the line that they are drawn for; empty for a lock of its own.
    """

    gauges: tuple[tuple[Defence, Mapping[str, Any]], ...]
    last: tuple[Rebuild, Mapping[str, Any]] | None
    line: str = ""


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
    known: dict[str, Defence | Rebuild] = {**DEFENCES, **REBUILDS}
    names = text.split("+")
    for name in names:
        if name in TRAINED:
            raise InputError(
                f"{name} is learned, not put on a finished model: train one from the base with "
                f"`unmergeable train --defence {name} --base BASE --data FILE`. What comes out can "
                "then be locked."
            )
        if name not in known:
            raise InputError(f"no defence {name!r}; there is {', '.join(known)}.")
    if len(set(names)) < len(names):
        raise InputError(f"{text!r} names a defence twice: the second would add nothing.")
    for name in names[:-1]:
        if name in REBUILDS:
            raise InputError(f"{name} changes the architecture: in {text!r} it must come last.")
    given: dict[str, dict[str, Any]] = {name: {} for name in names}
    line = settings.get("line", "")
    if "line" in settings and (not isinstance(line, str) or not 0 < len(line) <= LINE):
        raise InputError(f"line: give a name of 1 to {LINE} characters, not {str(line)[:20]!r}.")
    for setting, value in settings.items():
        if setting in COMMON:
            continue
        owner, own = _owner(setting, {name: known[name].settings for name in names}, text)
        given[owner][own] = value
    gauges = tuple((DEFENCES[name], given[name]) for name in names if name in DEFENCES)
    last = names[-1]
    return Chosen(gauges, (REBUILDS[last], given[last]) if last in REBUILDS else None, line)


def _owner(setting: str, known: Mapping[str, Mapping[str, str]], text: str) -> tuple[str, str]:
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
