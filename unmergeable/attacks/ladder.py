"""The ladder: every repair an audit tries, cheapest first, and the two ceilings above it.

A new attack is one file beside this one and one row here; one of your own needs no row: a package
that declares the entry point group `unmergeable.attacks` is found when it is installed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.metadata import entry_points
from typing import Any

from unmergeable.attacks.attack import COORDINATE_FREE, Attack, Thief, Variant
from unmergeable.attacks.base_component import BASE_COMPONENT
from unmergeable.attacks.coefficients import LEARNT
from unmergeable.attacks.distil import distil_merge, distil_release
from unmergeable.attacks.fine_tune import fine_tune, fine_tune_release
from unmergeable.attacks.low_rank import LOW_RANK
from unmergeable.attacks.norm_match import NORM_MATCH
from unmergeable.attacks.pull_back import pull_back_ridge
from unmergeable.attacks.pull_back_gradient import pull_back_by_gradient
from unmergeable.attacks.regmean_repair import regmean
from unmergeable.attacks.reset import RESET
from unmergeable.attacks.sign_filter import SIGN_FILTER
from unmergeable.attacks.synthetic_inputs import SYNTHETIC
from unmergeable.errors import InputError, quoted

GROUP = "unmergeable.attacks"
# Kinds of unlabelled text, the easiest to come by first.
TEXTS = ("generic", "near", "in-domain")

# The stages that an attack of a package may have.
STAGES = ("data-free", "text", "labels")

LADDER: tuple[Attack, ...] = (
    RESET,
    BASE_COMPONENT,
    NORM_MATCH,
    LOW_RANK,
    SIGN_FILTER,
    *(pull_back_ridge(kind) for kind in SYNTHETIC),
    *(distil_merge(kind) for kind in SYNTHETIC),
    *(pull_back_ridge(kind) for kind in TEXTS),
    *(regmean(kind) for kind in TEXTS),
    *(distil_merge(kind) for kind in TEXTS),
    *(pull_back_by_gradient(kind) for kind in TEXTS),
    LEARNT,
    fine_tune(),
    fine_tune("generic"),
)

# What open weights always allow, without any merge.
CEILINGS: tuple[Attack, ...] = (
    fine_tune_release(),
    fine_tune_release("generic"),
    *(distil_release(kind) for kind in TEXTS),
)


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


class StrangerError(InputError):
    """An attack of a package raised something that none of ours would."""


def guarded(attack: Attack) -> Attack:
    """A package's attack, whatever it raises a fault of its own and not of whoever runs it.

    An `OSError` of ours ends an audit, as when the disk is full; one that a stranger's attack
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
        raise StrangerError(f"{type(error).__name__}: {error}") from error


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
