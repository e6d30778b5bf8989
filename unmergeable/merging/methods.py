"""The merge methods of our own, and those that other packages add.

A package adds one by an entry point in the group "unmergeable.merge_methods" that names a
`MergeMethod`:

    [project.entry-points."unmergeable.merge_methods"]
    mine = "my_package.merging:MINE"
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points

from unmergeable.errors import InputError
from unmergeable.merging.adamerging import ADAMERGING, ADAMERGING_TASK
from unmergeable.merging.emr import EMR
from unmergeable.merging.fisher import FISHER
from unmergeable.merging.iso import ISO_C, ISO_CTS
from unmergeable.merging.knots import KNOTS
from unmergeable.merging.lot import LOT
from unmergeable.merging.mdm_oc import MDM_OC
from unmergeable.merging.mergetune import MERGETUNE
from unmergeable.merging.method import MergeMethod
from unmergeable.merging.neulig import NEULIG
from unmergeable.merging.regmean import REGMEAN
from unmergeable.merging.smile import SMILE
from unmergeable.merging.tall_masks import CONSENSUS_TA, TALL_MASKS
from unmergeable.merging.tsv import TSV
from unmergeable.merging.wudi import WUDI

GROUP = "unmergeable.merge_methods"

OWN: dict[str, MergeMethod] = {
    method.name: method
    for method in (
        TSV,
        ISO_C,
        ISO_CTS,
        WUDI,
        CONSENSUS_TA,
        MDM_OC,
        KNOTS,
        EMR,
        TALL_MASKS,
        SMILE,
        REGMEAN,
        LOT,
        FISHER,
        ADAMERGING,
        ADAMERGING_TASK,
        NEULIG,
        MERGETUNE,
    )
}


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
