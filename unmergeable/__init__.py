"""Publish an open-weight transformer that works for its users and is worthless to mergers."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from unmergeable.version import __version__ as __version__

if TYPE_CHECKING:
    from unmergeable.attacks.align import align as align
    from unmergeable.keys.key import Key as Key
    from unmergeable.keys.key import keygen as keygen
    from unmergeable.keys.key import load_key as load_key
    from unmergeable.merging.merge import merge as merge
    from unmergeable.protection.adapters import protect_adapter as protect_adapter
    from unmergeable.protection.adapters import unlock_adapter as unlock_adapter
    from unmergeable.protection.inspect import inspect as inspect
    from unmergeable.protection.protect import protect as protect
    from unmergeable.protection.protect import unlock as unlock
    from unmergeable.training.run import train as train
    from unmergeable.verification.verify import verify as verify

_WHERE = {
    "Key": "keys.key",
    "align": "attacks.align",
    "inspect": "protection.inspect",
    "keygen": "keys.key",
    "load_key": "keys.key",
    "merge": "merging.merge",
    "protect": "protection.protect",
    "protect_adapter": "protection.adapters",
    "train": "training.run",
    "unlock": "protection.protect",
    "unlock_adapter": "protection.adapters",
    "verify": "verification.verify",
}
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    """Imports a part of the API when it is first used; only `verify` and `merge` bring torch."""
    if name not in _WHERE:
        raise AttributeError(f"module 'unmergeable' has no attribute {name!r}")
    return getattr(import_module(f"unmergeable.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_WHERE])
