"""The merge methods of the files beside this one, and those that other packages add.

A package adds one by an entry point in the group "unmergeable.merge_methods" that names a
`MergeMethod`:

    [project.entry-points."unmergeable.merge_methods"]
    mine = "my_package.merging:MINE"
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points

from unmergeable.errors import InputError
from unmergeable.merging.method import MergeMethod
from unmergeable.registry import Registry, instances

GROUP = "unmergeable.merge_methods"

OWN = Registry("unmergeable.merging", instances(MergeMethod))


@cache
def methods() -> dict[str, MergeMethod]:
    """Our own methods and the registered ones, by name.

    Raises:
        InputError: an entry point that is no merge method, or takes a name that is taken.
    """
    found = dict(OWN)
    for point in entry_points(group=GROUP):
        try:
            method = point.load()
        except Exception as error:
            raise InputError(
                f"the merge method {point.value!r} cannot be loaded: {error}"
            ) from None
        if not isinstance(method, MergeMethod):
            raise InputError(
                f"the entry point {point.value!r} is a {type(method).__name__}, not a MergeMethod."
            )
        if method.name in found:
            raise InputError(
                f"the entry point {point.value!r} adds the merge method {method.name!r}, and there "
                "is one of that name already: rename it, or uninstall its package."
            )
        found[method.name] = method
    return found
