"""The merge methods of the files beside this one, and those that other packages add.

A package adds one by an entry point in the group "unmergeable.merge_methods" that names a
`MergeMethod`:

    [project.entry-points."unmergeable.merge_methods"]
    mine = "my_package.merging:MINE"
"""

from __future__ import annotations

from functools import cache
from typing import Any

from unmergeable.merging.method import MergeMethod
from unmergeable.registry import Registry, installed, instances

GROUP = "unmergeable.merge_methods"

OWN = Registry("unmergeable.merging", instances(MergeMethod))


@cache
def methods() -> dict[str, MergeMethod]:
    """Our own methods and the registered ones, by name.

    Raises:
        InputError: an entry point that is no merge method, or takes a name that is taken.
    """
    return {**OWN, **{one.name: one for one in installed(GROUP, _wrong, OWN)}}


def _wrong(one: Any) -> str:
    return "" if isinstance(one, MergeMethod) else f"is a {type(one).__name__}, not a MergeMethod"
