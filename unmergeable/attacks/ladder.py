"""The ladder: every repair an audit tries, cheapest first, and the two ceilings above it.

A new attack is one file beside this one, which is found; a package that declares the entry point
group `unmergeable.attacks` is found when it is installed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from unmergeable.attacks.attack import COORDINATE_FREE, Attack, Thief, Variant
from unmergeable.errors import InputError, quoted
from unmergeable.registry import Registry, installed, instances

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
    own = {attack.name: attack for attack in (*LADDER, *CEILINGS)}
    return own | {one.name: one for one in installed(GROUP, _wrong, own)}


def _wrong(one: Any) -> str:
    if not isinstance(one, Attack):
        return f"is a {type(one).__name__}: it must name an unmergeable.attacks.attack.Attack"
    if one.stage not in STAGES or one.name.split(":")[0] in ("none", "align"):
        return (
            f"is called {quoted(one.name)} and of stage {quoted(one.stage)}: name it after no step "
            f"of an audit (none, align), and give it one of the stages {', '.join(STAGES)}"
        )
    if one.name.startswith(tuple(COORDINATE_FREE)):
        return (
            f"calls its attack {quoted(one.name)}, as attacks that a verdict rests on begin: "
            "choose another"
        )
    return ""


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
