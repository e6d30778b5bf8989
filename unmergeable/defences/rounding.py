"""What dense or uneven elements cost: condition numbers, and the rounding of moved heads.

A head's function is the product R' W of what reads its space and what writes into it. Moved by an
ill-conditioned matrix and rounded to a narrow dtype, that product is off by far more than the dtype
costs anyway: on Gaussian weights of 64 by 768 and in bfloat16 by 2.3e-3 at a condition number of 1,
1.1e-2 at 30, 2.7e-2 at 100 (`tests/defences/test_rounding.py`). A diagonal element costs nothing,
whatever its range: a product of two rounded numbers does not see their scales.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from unmergeable.architectures.layout import Layout
from unmergeable.defences.defence import Subject
from unmergeable.defences.roles import role, shown
from unmergeable.errors import PrecisionError
from unmergeable.gauge.axis_map import AxisMap, Float
from unmergeable.gauge.floats import FORMATS, Format
from unmergeable.gauge.notation import Gauge, Space

# Four times what bfloat16 costs anyway: reached by dense matrices with a condition of about 30.
TOLERANCE = 0.01
# Heads of a layer that are looked at.
_HEADS = 2
# Weights that came out of the dtype round to themselves; times 4/3 they round as any others do.
_OFF_GRID = 4 / 3


def condition(element: AxisMap) -> float:
    """The 2-norm condition number of an element."""
    worst, least = 0.0, np.inf
    for factor in element.factors:
        sizes = np.abs(factor) if factor.ndim == 1 else np.linalg.svd(factor, compute_uv=False)
        worst, least = max(worst, float(sizes.max())), min(least, float(sizes.min()))
    return worst / least


def conditions(layout: Layout, spaces: Sequence[Space], gauge: Gauge) -> dict[str, Any]:
    """Median and largest condition number of what was drawn, by role."""
    found = defaultdict(list)
    for space in spaces:
        for instance in layout.instances(space):
            found[role(space)].append(condition(gauge(space, instance)))
    return {
        name: {"median": float(np.median(numbers)), "largest": max(numbers)}
        for name, numbers in found.items()
    }


def rounding(subject: Subject, spaces: Sequence[Space], gauge: Gauge) -> dict[str, Any]:
    """What storing the moved heads costs, in the narrowest dtype of the model.

    Returns:
        `dtype`, and for each role ("qk", "vo") the relative errors of the products: `median` and
        `largest` of the moved ones, `unmoved` the median of the open model's, had its weights not
        been rounded already; `heads` is how many were looked at.
    """
    form = _narrowest(subject)
    moved: dict[str, list[float]] = defaultdict(list)
    still: dict[str, list[float]] = defaultdict(list)
    for space in spaces:
        for instance in _some(subject.layout, space):
            both = _sides(subject, space, instance)
            if both is None:
                continue
            write, read = both
            element = gauge(space, instance)
            # Moved, stored, and looked at from where they came: only the rounding is left.
            there = element.inverse(_cast(element(write), form))
            here = element.dual.inverse(_cast(element.dual(read), form))
            moved[role(space)].append(product_error((write, read), (there, here)))
            wide = _OFF_GRID * write, _OFF_GRID * read
            unmoved = _cast(wide[0], form), _cast(wide[1], form)
            still[role(space)].append(product_error(wide, unmoved))
    by_role = {
        name: {
            "median": float(np.median(errors)),
            "largest": max(errors),
            "unmoved": float(np.median(still[name])),
            "heads": len(errors),
        }
        for name, errors in moved.items()
    }
    return {"dtype": form.name, **by_role}


def check_rounding(
    cost: Mapping[str, Any], drawn: Mapping[str, Any], tolerance: float, advice: str
) -> None:
    """Refuses a draw that the dtype cannot hold well enough.

    Args:
        cost: as `rounding` returns it.
        drawn: as `conditions` returns it.
        tolerance: allowed median of the relative errors, of queries and keys or of values and
            outputs, whichever is larger.
        advice: what to do instead.

    Raises:
        PrecisionError: above the tolerance, or not finite.
    """
    for name in drawn:
        found = cost.get(name)
        if found and not found["median"] <= tolerance:
            raise PrecisionError(
                f"stored as {cost['dtype']}, the products of moved heads ({name}) would be off by "
                f"{found['median']:.2g} (median; {found['unmoved']:.2g} unmoved; allowed "
                f"{tolerance:g}), since what was drawn has a median condition number of "
                f"{drawn[name]['median']:.3g}. {advice}"
            )


def product_error(exact: tuple[Float, Float], rounded: tuple[Float, Float]) -> float:
    """Frobenius norm of R_2' W_2 - R_1' W_1 relative to that of R_1' W_1, from small products only.

    Args:
        exact: W_1 and R_1, each of shape (n, m).
        rounded: W_2 and R_2.
    """
    (w1, r1), (w2, r2) = exact, rounded
    if not (np.isfinite(w2).all() and np.isfinite(r2).all()):
        return np.inf
    # R_2' W_2 - R_1' W_1 = (R_2 - R_1)' W_2 + R_1' (W_2 - W_1): nothing large cancels.
    write, read = np.concatenate([w2, w2 - w1]), np.concatenate([r2 - r1, r1])
    square, norm = _squared_norm(write, read), _squared_norm(w1, r1)
    return float(np.sqrt(max(square, 0.0) / max(norm, 1e-300)))


def _squared_norm(write: Float, read: Float) -> float:
    """The squared Frobenius norm of R' W."""
    return float(((read @ read.T) * (write @ write.T)).sum())


def _narrowest(subject: Subject) -> Format:
    forms = [FORMATS[dtype] for dtype in subject.dtypes if dtype in FORMATS]
    return min(forms, key=lambda form: form.mantissa, default=FORMATS["F32"])


def _some(layout: Layout, space: Space) -> Iterator[tuple[int, ...]]:
    """A few instances of each layer, evenly apart."""
    by_layer: dict[tuple[int, ...], list[tuple[int, ...]]] = defaultdict(list)
    for instance in layout.instances(space):
        by_layer[instance[:-1]].append(instance)
    for heads in by_layer.values():
        yield from heads[:: max(1, -(-len(heads) // _HEADS))]


def _sides(subject: Subject, space: Space, instance: tuple[int, ...]) -> tuple[Float, Float] | None:
    """The matrices that write and those that read; None in a layer of another kind.

    Biases can outweigh them and are left out; gates follow no more than the order.
    """
    found: dict[str, list[Float]] = {"write": [], "read": []}
    for view in shown(subject.layout, space, instance, subject.values):
        if view.matrix and view.side in found:
            found[view.side].append(view.rows)
    if not all(found.values()):
        return None
    return np.concatenate(found["write"], axis=1), np.concatenate(found["read"], axis=1)


def _cast(values: Float, form: Format) -> Float:
    with np.errstate(over="ignore"):
        return np.asarray(values.astype(form.number).astype(np.float64))
