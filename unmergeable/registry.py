"""Registries that fill themselves: what the modules of a package define, by name.

A new defence, attack, alignment or merge method is one file in its package. Nothing lists it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator, MutableMapping
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
        fits: whether what an entry point names may be added.
    """

    def __init__(
        self,
        package: str,
        of: Callable[[ModuleType], Iterable[T]],
        group: str = "",
        fits: Callable[[Any], bool] = lambda one: True,
    ) -> None:
        self._package, self._of, self._group, self._fits = package, of, group, fits

    @cached_property
    def _found(self) -> dict[str, T]:
        package = importlib.import_module(self._package)
        names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
        modules = [importlib.import_module(f"{self._package}.{name}") for name in names]
        every: list[Any] = [one for module in modules for one in self._of(module)]
        every += self._added() if self._group else []
        found: dict[str, T] = {}
        for one in sorted(every, key=lambda one: one.order):
            if found.setdefault(one.name, one) is not one:
                raise ValueError(f"two things in {self._package} are called {one.name!r}")
        return found

    def _added(self) -> Iterator[Any]:
        for point in entry_points(group=self._group):
            try:
                one = point.load()
            except Exception as error:  # whatever a package's module raises
                raise InputError(
                    f"entry point {point.name} = {point.value} fails: {error}"
                ) from None
            if not self._fits(one):
                raise InputError(
                    f"entry point {point.name} = {point.value} is nothing that {self._group} takes."
                )
            yield one

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
