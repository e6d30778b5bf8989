"""Registries that fill themselves: what the modules of a package define, by name.

A new defence, attack, alignment or merge method is one file in its package. Nothing lists it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Collection, Iterable, Iterator, MutableMapping
from functools import cached_property
from importlib.metadata import entry_points
from types import ModuleType
from typing import Any, Generic, TypeVar

from unmergeable.errors import InputError

T = TypeVar("T")


class Registry(MutableMapping[str, T], Generic[T]):
    """What the modules of a package define of one kind, by `name`.

    The modules are imported when something is first looked up, so that they may import the module
    that holds the registry. Listed are lower `order` first, and of equals by module and place.

    Args:
        package: its name. A package inside of it counts as one module.
        of: finds them in a module; see `instances` and `subclasses`.
        group: the group of entry points by which installed packages add theirs; each names one.
        wrong: why what an entry point names cannot be added, after its name; empty if it can.
    """

    def __init__(
        self,
        package: str,
        of: Callable[[ModuleType], Iterable[T]],
        group: str = "",
        wrong: Callable[[Any], str] = lambda one: "",
    ) -> None:
        self._package, self._of, self._group, self._wrong = package, of, group, wrong

    @cached_property
    def _found(self) -> dict[str, T]:
        package = importlib.import_module(self._package)
        names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
        modules = [importlib.import_module(f"{self._package}.{name}") for name in names]
        every: list[Any] = [one for module in modules for one in self._of(module)]
        if self._group:
            every += installed(self._group, self._wrong, {one.name for one in every})
        found: dict[str, T] = {}
        for one in sorted(every, key=lambda one: one.order):
            if found.setdefault(one.name, one) is not one:
                raise ValueError(f"two things in {self._package} are called {one.name!r}")
        return found

    def __getitem__(self, name: str) -> T:
        return self._found[name]

    def __setitem__(self, name: str, one: T) -> None:
        self._found[name] = one

    def __delitem__(self, name: str) -> None:
        del self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


def installed(group: str, wrong: Callable[[Any], str], taken: Collection[str]) -> Iterator[Any]:
    """What installed packages add by entry points.

    Args:
        group: of the entry points; each names one thing, which has a `name`.
        wrong: why what one names cannot be added, as the end of a sentence; empty if it can.
        taken: names in use.

    Raises:
        InputError: one that cannot be loaded, is wrong, or takes a name in use.
    """
    used = set(taken)
    for point in entry_points(group=group):
        told = f"entry point {point.name} = {point.value}"
        try:
            one = point.load()
        except Exception as error:  # whatever a package's module raises
            raise InputError(f"{told} fails: {error}") from None
        if reason := wrong(one):
            raise InputError(f"{told} {reason}.")
        if one.name in used:
            raise InputError(f"{told} is called {one.name!r}, a name in use: choose another.")
        used.add(one.name)
        yield one


def instances(kind: type[T]) -> Callable[[ModuleType], Iterable[T]]:
    """Finds the objects of a class, alone or in tuples, that stand at the top of a module."""

    def of(module: ModuleType) -> Iterator[T]:
        for value in vars(module).values():
            for one in value if isinstance(value, tuple) else (value,):
                if isinstance(one, kind):
                    yield one

    return of


def subclasses(kind: type[T]) -> Callable[[ModuleType], Iterable[type[T]]]:
    """Finds the subclasses of a class, or the class itself, that a module defines and names."""

    def of(module: ModuleType) -> Iterator[type[T]]:
        for value in vars(module).values():
            named = isinstance(value, type) and issubclass(value, kind) and hasattr(value, "name")
            if named and value.__module__.startswith(module.__name__):
                yield value

    return of
