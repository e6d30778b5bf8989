"""Whether two models can be compared tensor by tensor, and what they have in common.

Some axes no lock moves: words, labels, positions, token types. There an expert may have more than
its base, or less: a token was added, another set of labels taken. A thief compares what both have.
"""

from __future__ import annotations

from collections.abc import Mapping

from unmergeable.architectures.layout import Layout
from unmergeable.checkpoint.folder import ModelFolder
from unmergeable.errors import InputError
from unmergeable.gauge.notation import Atom

Shape = tuple[int, ...]


def shared_tensors(layout: Layout, protected: ModelFolder, base: ModelFolder) -> dict[str, Shape]:
    """The tensors that both models have, each with the shape of what they have in common.

    Heads and other tensors outside the layers may differ: an expert that classifies is often a
    fine-tune of a base that writes text. So may the lengths of axes that no lock moves.

    Args:
        layout: of the protected model.
        protected: the model under attack.
        base: the anchor.

    Raises:
        InputError: a tensor of different lengths along an axis that a lock may move, or one of a
            layer that only one model has; says which, and both shapes.
    """
    movable, outer = layout.movable().keys(), _interfaces(layout)
    rules = {id(place.rule): place.rule for place in layout.placements.values()}.values()
    found: dict[str, Shape] = {}
    for name in sorted(protected.shapes.keys() | base.shapes.keys()):
        have, want = protected.shapes.get(name), base.shapes.get(name)
        if have is None or want is None:
            rule = next((rule for rule in rules if rule.match(name)), None)
            used = {n for axis in rule.axes for n in axis.names()} if rule else set()
            if rule is None or not rule.indices() or not used & movable:
                continue
        elif have == want or _trims(layout, outer, name, have, want):
            found[name] = tuple(map(min, have, want))
            continue
        raise InputError(
            f"{protected.path} and {base.path} are not of one family: {name!r} is "
            f"{have or 'absent'} in one and {want or 'absent'} in the other."
        )
    return found


def common_part(shapes: Mapping[str, Shape], name: str) -> tuple[slice, ...]:
    """What two models have in common of a tensor that both have."""
    return tuple(slice(length) for length in shapes[name])


def _interfaces(layout: Layout) -> set[str]:
    """The spaces that are a model's interface: fixed, read by nothing inside, and no numbers."""
    axes = [axis for place in layout.placements.values() for axis in place.rule.axes]
    written = {axis.name for axis in axes if isinstance(axis, Atom) and axis.side == "write"}
    inside = {name for axis in axes for name in axis.names() if not _writes(axis, name)}
    inside |= {one for space in layout.spaces.values() for one in space.per}
    return {name for name in written - inside if layout.spaces[name].group is None}


def _writes(axis: object, name: str) -> bool:
    return isinstance(axis, Atom) and axis == Atom(name)


def _trims(layout: Layout, outer: set[str], name: str, have: Shape, want: Shape) -> bool:
    """Whether two shapes of a tensor differ along its interfaces alone."""
    axes = layout.placements[name].rule.axes
    return len(have) == len(want) and all(
        one == two or (isinstance(axis, Atom) and axis.name in outer)
        for axis, one, two in zip(axes, have, want, strict=True)
    )
