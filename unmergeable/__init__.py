"""Publish an open-weight transformer that works for its users and is worthless to mergers."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from unmergeable.version import __version__ as __version__

if TYPE_CHECKING:
    from unmergeable.adapters import protect_adapter as protect_adapter
    from unmergeable.adapters import unlock_adapter as unlock_adapter
    from unmergeable.attacks.align import align as align
    from unmergeable.audit.equivalence import verify as verify
    from unmergeable.inspection import inspect as inspect
    from unmergeable.keys import Key as Key
    from unmergeable.keys import keygen as keygen
    from unmergeable.keys import load_key as load_key
    from unmergeable.merging.merge import merge as merge
    from unmergeable.protection import protect as protect
    from unmergeable.protection import unlock as unlock
    from unmergeable.training.run import train as train

_WHERE = {
    "Key": "keys",
    "align": "attacks.align",
    "inspect": "inspection",
    "keygen": "keys",
    "load_key": "keys",
    "merge": "merging.merge",
    "protect": "protection",
    "protect_adapter": "adapters",
    "train": "training.run",
    "unlock": "protection",
    "unlock_adapter": "adapters",
    "verify": "audit.equivalence",
}
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    """Imports a part of the API when it is first used; only `verify` and `merge` bring torch."""
    if name not in _WHERE:
        raise AttributeError(f"module 'unmergeable' has no attribute {name!r}")
    return getattr(import_module(f"unmergeable.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
