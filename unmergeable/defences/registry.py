"""The post-hoc defences by name, and chains of them: `params+mergelock`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unmergeable.defences.defence import Defence
from unmergeable.defences.lock import Lock
from unmergeable.errors import InputError

DEFENCES: dict[str, Defence] = {defence.name: defence for defence in (Lock(),)}


def chain_of(text: str, settings: Mapping[str, Any]) -> list[tuple[Defence, dict[str, Any]]]:
    """The defences that a chain names, in order, each with its own settings.

    Args:
        text: one name, or several with plus signs between.
        settings: by name; where several defences of the chain have one of that name, as
            `DEFENCE.NAME`.

    Raises:
        InputError: an unknown defence; a setting that none or several of them have.
    """
    names = text.split("+")
    for name in names:
        if name not in DEFENCES:
            raise InputError(f"no defence {name!r}; there is {', '.join(DEFENCES)}.")
    if len(set(names)) < len(names):
        raise InputError(f"{text!r} names a defence twice: the second would add nothing.")
    given: dict[str, dict[str, Any]] = {name: {} for name in names}
    for setting, value in settings.items():
        owner, dot, own = setting.partition(".")
        if not dot:
            owners = [name for name in names if setting in DEFENCES[name].settings]
            if len(owners) > 1:
                raise InputError(
                    f"{setting}: {' and '.join(owners)} have it; say which as "
                    f"{owners[0]}.{setting}."
                )
            owner, own = (owners or names[:1])[0], setting
        if owner not in given or own not in DEFENCES[owner].settings:
            known = [
                f"{name}.{one}" if len(names) > 1 else one
                for name in names
                for one in DEFENCES[name].settings
            ]
            raise InputError(f"{text} has no setting {setting!r}; it has {', '.join(known)}.")
        given[owner][own] = value
    return [(DEFENCES[name], given[name]) for name in names]
