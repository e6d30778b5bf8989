"""Whether two models can be compared tensor by tensor, and which tensors they share."""

from __future__ import annotations

from unmergeable.architectures.layout import Layout
from unmergeable.checkpoint.folder import ModelFolder
from unmergeable.errors import InputError


def shared_tensors(layout: Layout, protected: ModelFolder, base: ModelFolder) -> set[str]:
    """The names that both models have.

    Heads and other tensors outside the layers may differ: an expert that classifies is often a
    fine-tune of a base that writes text.

    Args:
        layout: of the protected model.
        protected: the model under attack.
        base: the anchor.

    Raises:
        InputError: a tensor of different shapes, or one of a layer that only one model has; says
            which, and both shapes.
    """
    movable = layout.movable().keys()
    rules = {id(place.rule): place.rule for place in layout.placements.values()}.values()
    for name in sorted(protected.shapes.keys() | base.shapes.keys()):
        have, want = protected.shapes.get(name), base.shapes.get(name)
        if have == want:
            continue
        if have is None or want is None:
            rule = next((rule for rule in rules if rule.match(name)), None)
            used = {n for axis in rule.axes for n in axis.names()} if rule else set()
            if rule is None or not rule.indices() or not used & movable:
                continue
        raise InputError(
            f"{protected.path} and {base.path} are not of one family: {name!r} is "
            f"{have or 'absent'} in one and {want or 'absent'} in the other."
        )
    return protected.shapes.keys() & base.shapes.keys()
