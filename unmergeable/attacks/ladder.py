"""The ladder: every repair an audit tries, cheapest first, and the two ceilings above it.

A new attack is one file beside this one, which is found; a package that declares the entry point
group `unmergeable.attacks` is found when it is installed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.metadata import entry_points
from typing import Any

from unmergeable.attacks.attack import COORDINATE_FREE, Attack, Thief, Variant
from unmergeable.errors import InputError, quoted
from unmergeable.registry import Registry, instances

GROUP = "unmergeable.attacks"
# The stages that an attack of a package may have.
STAGES = ("data-free", "text", "labels")

_OWN = Registry("unmergeable.attacks", instances(Attack))
LADDER: tuple[Attack, ...] = tuple(
    attack for stage in STAGES for attack in _OWN.values() if attack.stage == stage
)
# What open weights always allow, without any merge.
CEILINGS: tuple[Attack, ...] = tuple(a for a in _OWN.values() if a.stage == "ceiling")


def attacks() -> dict[str, Attack]:
    """The ladder, the ceilings, and what installed packages add, by name.

    Raises:
        InputError: an entry point that cannot be loaded, is no attack, or takes a name in use.
    """
    found = {attack.name: attack for attack in (*LADDER, *CEILINGS)}
    for point in entry_points(group=GROUP):
        try:
            loaded = point.load()
        except Exception as error:  # whatever a package's module raises
            raise InputError(f"entry point {point.name} = {point.value} fails: {error}") from None
        if not isinstance(loaded, Attack):
            raise InputError(
                f"entry point {point.name} = {point.value} is a {type(loaded).__name__}: it must "
                "name an unmergeable.attacks.attack.Attack."
            )
        if loaded.stage not in STAGES or loaded.name.split(":")[0] in ("none", "align"):
            raise InputError(
                f"entry point {point.name} = {point.value} is called {quoted(loaded.name)} and of "
                f"stage {quoted(loaded.stage)}: name it after no step of an audit (none, align), "
                f"and give it one of the stages {', '.join(STAGES)}."
            )
        if loaded.name.startswith(tuple(COORDINATE_FREE)):
            raise InputError(
                f"entry point {point.name} = {point.value} calls its attack "
                f"{quoted(loaded.name)}, as attacks that a verdict rests on begin: choose another."
            )
        if loaded.name in found:
            raise InputError(
                f"entry point {point.name} = {point.value} calls its attack {loaded.name!r}, a "
                "name in use: choose another."
            )
        found[loaded.name] = loaded
    return found


class PluginError(InputError):
    """An attack of a package raised something that none of ours would."""


def guarded(attack: Attack) -> Attack:
    """A package's attack, whatever it raises a fault of its own and not of its user.

    An `OSError` of ours ends an audit, as when the disk is full; one that a package's attack
    raises, for want of a file or of a network, is a failed attack like any other.
    """

    def run(call: Callable[..., Iterator[Variant]] | None) -> Any:
        return None if call is None else partial(_variants, call)

    return replace(
        attack,
        before=run(attack.before),
        after=run(attack.after),
        instead=run(attack.instead),
        alone=run(attack.alone),
        suits=partial(_unsuited, attack.suits),
    )


def _variants(call: Callable[..., Iterator[Variant]], *given: Any) -> Iterator[Variant]:
    try:
        yield from call(*given)
    except InputError:
        raise
    except Exception as error:
        raise PluginError(f"{type(error).__name__}: {error}") from error


def _unsuited(suits: Callable[[Thief], str], thief: Thief) -> str:
    try:
        return suits(thief)
    except Exception as error:  # it has not seen the release
        return f"it cannot tell whether it applies: {type(error).__name__}: {error}"


def attack_named(name: str) -> Attack:
    """An attack by its name.

    Raises:
        InputError: there is none of that name.
    """
    known = attacks()
    if name not in known:
        raise InputError(f"no attack {name!r}; there is {', '.join(known)}.")
    return known[name]
