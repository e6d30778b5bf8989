"""A config.json as transformers reads it: keys of two spellings, and a class's own defaults.

transformers gives some keys of a config a second name, its `attribute_map`; the data files have
those pairs under `[aliases]`. Nothing that a config says is believed to be a number, or short.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from unmergeable.errors import InputError, quoted


class Config(Mapping[str, Any]):
    """One config, read under either spelling of a key.

    A null counts as absent, as in the data files.

    Args:
        given: what the file says.
        aliases: second spellings, each with the first.
        defaults: what to take where the file says nothing.
    """

    def __init__(
        self,
        given: Mapping[str, Any],
        aliases: Mapping[str, str],
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        self._given, self._aliases, self._defaults = given, aliases, defaults or {}

    def __getitem__(self, key: str) -> Any:
        """What the config says under any spelling of a key.

        Raises:
            KeyError: nothing.
            InputError: two spellings with unlike values; both are named.
        """
        first = self._aliases.get(key, key)
        found = {}
        for name in (first, *(alias for alias, real in self._aliases.items() if real == first)):
            if self._given.get(name) is not None:
                found[name] = self._given[name]
        names = list(found)
        for name in names[1:]:  # transformers sets the second spelling after the first
            if not _agree(found[names[0]], found[name]):
                raise InputError(
                    f"config.json says {names[0]} {quoted(found[names[0]])} and {name} "
                    f"{quoted(found[name])}, which are two spellings of one setting: transformers "
                    f"reads {name}, other programs {names[0]}. Remove the wrong one."
                )
        if names:
            return found[names[-1]]
        if first in self._defaults:
            return self._defaults[first]
        return self._given[key]

    def __iter__(self) -> Iterator[str]:
        return iter({**self._defaults, **self._given})

    def __len__(self) -> int:
        return len({**self._defaults, **self._given})


def _agree(one: Any, other: Any) -> bool:
    """Whether two spellings say the same; of two tables, as far as both go."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return all(one[key] == other[key] for key in one.keys() & other.keys())
    return bool(one == other)
