"""The methods of alignment, by name: the subclasses of `Method` in the files beside this one."""

from __future__ import annotations

from unmergeable.attacks.alignment.method import Method
from unmergeable.errors import InputError
from unmergeable.registry import Registry, subclasses

METHODS: Registry[type[Method]] = Registry("unmergeable.attacks.alignment", subclasses(Method))


def method_named(name: str) -> Method:
    """A fresh object of one method.

    Raises:
        InputError: no such method; lists all.
    """
    if name not in METHODS:
        raise InputError(f"no alignment method {name!r}; there is {', '.join(METHODS)}.")
    return METHODS[name]()
