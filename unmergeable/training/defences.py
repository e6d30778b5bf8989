"""The registry of training-time defences: one row each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unmergeable.defences.registry import DEFENCES as POST_HOC
from unmergeable.defences.registry import REBUILDS
from unmergeable.errors import InputError
from unmergeable.training.arf import Arf
from unmergeable.training.defence import Defence, NoDefence
from unmergeable.training.mergeguard import MergeGuard
from unmergeable.training.trap2 import Trap2

DEFENCES: dict[str, type[Defence]] = {cls.name: cls for cls in (NoDefence, Trap2, Arf, MergeGuard)}


def training_defence(name: str, settings: Mapping[str, Any] | None = None) -> Defence:
    """A defence with its settings.

    Raises:
        InputError: a name or a setting that is unknown, a value that cannot be.
    """
    if name in POST_HOC or name in REBUILDS:
        raise InputError(
            f"{name} is put on a finished model: train without it, and then run `unmergeable "
            f"protect --defence {name}` on what comes out."
        )
    if name not in DEFENCES:
        raise InputError(f"there is no training defence {name!r}; there is {', '.join(DEFENCES)}.")
    return DEFENCES[name](settings)
