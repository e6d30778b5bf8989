"""The methods of alignment, by name."""

from __future__ import annotations

from unmergeable.attacks.alignment.aga import Aga
from unmergeable.attacks.alignment.aga_full import AgaFull
from unmergeable.attacks.alignment.base_reset import BaseReset
from unmergeable.attacks.alignment.canonical import Canonical
from unmergeable.attacks.alignment.full import Full
from unmergeable.attacks.alignment.kabsch import Kabsch
from unmergeable.attacks.alignment.method import Method
from unmergeable.attacks.alignment.rotation_symmetry import RotationSymmetry
from unmergeable.attacks.alignment.weight_matching import WeightMatching
from unmergeable.errors import InputError

_ALL: tuple[type[Method], ...] = (
    Full,
    BaseReset,
    Kabsch,
    Aga,
    AgaFull,
    RotationSymmetry,
    WeightMatching,
    Canonical,
)
METHODS = {method.name: method for method in _ALL}


def method_named(name: str) -> Method:
    """A fresh object of one method.

    Raises:
        InputError: no such method; lists all.
    """
    if name not in METHODS:
        raise InputError(f"no alignment method {name!r}; there is {', '.join(METHODS)}.")
    return METHODS[name]()
