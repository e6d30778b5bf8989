"""The ladder: every repair an audit tries, cheapest first, and the two ceilings above it.

A new attack is one file beside this one, which is found; a package that declares the entry point
group `unmergeable.attacks` is found when it is installed.
"""

from __future__ import annotations

from importlib.metadata import entry_points

from unmergeable.attacks.attack import COORDINATE_FREE, Attack
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
        except Exception as error:  # whatever a stranger's module raises
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


def attack_named(name: str) -> Attack:
    """An attack by its name.

    Raises:
        InputError: there is none of that name.
    """
    known = attacks()
    if name not in known:
        raise InputError(f"no attack {name!r}; there is {', '.join(known)}.")
    return known[name]
