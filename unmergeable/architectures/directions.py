"""What may be added to tensors although no output shows it: nothing reads it.

A softmax does not see what is added to all that it compares. So one vector may be added to every
row of a head that it stands behind, or of a router, and one number to every entry of such a bias.

A LayerNorm takes the mean off what it reads. So what writes into a stream that nothing but
LayerNorms read may add the same to all its positions, a multiple of the all-ones vector. What it
gives sums to zero before its gain. So what reads it may have any multiple of one over the gain on
every row, and the reader's bias takes what that makes of the norm's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from unmergeable.architectures.norms import Norm, Touch, norms_of
from unmergeable.architectures.rules import ClassRule, TensorRule
from unmergeable.architectures.shifts import bias_of
from unmergeable.gauge.axis_map import Index
from unmergeable.gauge.notation import Atom, Axis, Concatenation, Product

if TYPE_CHECKING:
    from unmergeable.architectures.layout import Layout

Shapes = Mapping[str, tuple[int, ...]]
# Classes whose words a softmax compares, and whose labels; positions or choices are neither.
_WORDS = (
    "ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "MTModel", "ForMaskedLM", "ForCTC",
    "ForPreTraining",
)  # fmt: skip
_SOFTMAX = (
    *_WORDS, "ForSequenceClassification", "ForTokenClassification", "ForImageClassification",
    "ForImageClassificationWithTeacher", "ForAudioClassification",
)  # fmt: skip
# Of a config: caps on the words' logits, and what is trained without a softmax over labels.
_CAP = "final_logit_softcapping"
_APART = ("regression", "multi_label_classification")


@dataclass(frozen=True, eq=False)
class Direction:
    """A vector along one axis of a tensor: any multiple of it may be added, at each other position.

    It is one over the numbers of a gain or of a layer scale, or ones.

    Attributes:
        name: of the tensor.
        axis: the number of the axis.
        over: the gain, or the layer scale; None for ones.
        positions: those of the axis that the vector has, in the order of the gain; None for all.
        adder: a bias behind the gain; empty if there is none.
        taker: the bias that takes what the tensor makes of that one.
        rows: whether it is behind a softmax, which tells no rows apart.
    """

    name: str
    axis: int
    over: Norm | None = None
    positions: Index | None = None
    adder: str = ""
    taker: str = ""
    rows: bool = False


def softmax_heads(name: str, rule: ClassRule, config: Mapping[str, Any]) -> tuple[str, ...]:
    """The rows of a class's head that only a softmax reads, by the beginnings of their names.

    Args:
        name: of the class.
        rule: what the class adds to its family's trunk.
        config: of the model.
    """
    if not name.endswith(_SOFTMAX):
        return ()
    compared = set()
    if not any(one.get(_CAP) for one in (config, *_nested(config))):
        compared.add("vocab")
    if config.get("problem_type") not in _APART:
        compared.add("label")
    return tuple(
        template
        for row in rule.tensors
        if any(isinstance(axis, Atom) and axis.name in compared for axis in row.axes)
        for template in row.templates
    )


def directions_of(layout: Layout, shapes: Shapes) -> list[Direction]:
    """The directions of a model that nothing sees.

    Args:
        layout: of the model.
        shapes: its tensors' dimensions, by name.
    """
    found = [
        Direction(name, axis, rows=True)
        for name, placement in layout.placements.items()
        if placement.rule.begins_with_any(layout.softmax)
        for axis in _compared(placement.rule, shapes[name])
    ]
    if not layout.centred:
        return found
    norms = norms_of(layout, shapes)
    centred = [
        norm
        for norm in norms
        if norm.spaces <= layout.centred
        and _is_read(layout, norm.readers)
        and not _is_bound(layout, norm.gain)
    ]
    for norm in centred:
        found += _behind_norm(norm, shapes)
    plain = list(_without_gain(layout))
    found += [Direction(touch.name, touch.axis) for touch in plain]
    scales = {
        (touch.name, touch.axis): norm
        for norm in norms
        if not _is_read(layout, norm.readers)
        for touch in norm.readers
    }
    readers = [t for norm in centred if isinstance(norm.axis, Atom) for t in norm.readers]
    for space in sorted(layout.centred - layout.exposed):
        for name, axis in _writers(layout, space, {(t.name, t.axis) for t in readers + plain}):
            found.append(Direction(name, axis, scales.get((name, axis))))
    return found


def _behind_norm(norm: Norm, shapes: Shapes) -> Iterator[Direction]:
    """The directions of what reads a LayerNorm."""
    adder = norm.adders[0] if len(norm.adders) == 1 else None
    if len(norm.adders) > 1 or (adder and shapes[adder.name] != (norm.size,)):
        return
    for touch in norm.readers:
        bias = bias_of(touch.name, shapes) or ""
        shape = shapes[touch.name]
        if adder and (len(shape) != 2 or shapes.get(bias) != (shape[1 - touch.axis],)):
            continue
        # What reads several outputs of the norm side by side has a direction for each.
        places = np.argsort(touch.places, kind="stable").reshape(norm.size, -1)
        for positions in places.T:
            if adder:
                yield Direction(touch.name, touch.axis, norm, positions, adder.name, bias)
            else:
                yield Direction(touch.name, touch.axis, norm, positions)


def _without_gain(layout: Layout) -> Iterator[Touch]:
    """What reads LayerNorms, in a model whose norms have no gains."""
    placed = layout.placements.items()
    if any(rule.is_norm(placement.rule) for rule in layout.norms for _, placement in placed):
        return
    for name, placement in placed:
        if any(rule.is_read_by(placement.rule) for rule in layout.norms):
            for axis, one in enumerate(placement.rule.axes):
                if isinstance(one, Atom) and one.side == "read" and one.name in layout.centred:
                    yield Touch(name, axis, np.arange(0))


def _writers(
    layout: Layout, space: str, readers: set[tuple[str, int]]
) -> Iterator[tuple[str, int]]:
    """What writes into a stream, if LayerNorms read it and nothing else."""
    found, seen, tied = [], False, _is_tied(layout)
    for name, placement in layout.placements.items():
        axes = placement.rule.axes
        for number, axis in enumerate(axes):
            if space in _reading(axis):
                if (name, number) not in readers:
                    return
                seen = True
            elif axis == Atom(space) and not any(r.is_norm(placement.rule) for r in layout.norms):
                is_head = tied and any("vocab" in one.names() for one in axes)
                found += [] if is_head or _is_bound(layout, name) else [(name, number)]
    if seen:
        yield from found


def _is_bound(layout: Layout, name: str) -> bool:
    """Whether a declaration says that nothing may be added to a tensor."""
    return layout.placements[name].rule.begins_with_any(layout.bound)


def _is_tied(layout: Layout) -> bool:
    """Whether the embeddings are the head, too."""
    heads = (
        p
        for p in layout.placements.values()
        if any(axis == Atom("vocab") for axis in p.rule.axes) and any(map(_reads, p.rule.axes))
    )
    return layout.model_class.endswith(_WORDS) and not any(heads)


def _is_read(layout: Layout, touches: tuple[Touch, ...]) -> bool:
    """Whether matrices read what stands before them, and do not write under it."""
    return all(_reading(layout.placements[t.name].rule.axes[t.axis]) for t in touches)


def _compared(rule: TensorRule, shape: tuple[int, ...]) -> Iterator[int]:
    """The axis of the scores that a tensor writes, if it has one, and more than one score."""
    axes = list(zip(rule.axes, shape, strict=True))
    written = [n for n, (axis, size) in enumerate(axes) if size > 1 and not _reads(axis)]
    if len(written) == 1:
        yield written[0]


def _reads(axis: Axis) -> bool:
    return isinstance(axis, Atom) and axis.side == "read"


def _reading(axis: Axis) -> set[str]:
    """The spaces on whose reading side an axis is, or a part of it."""
    match axis:
        case Atom(name, side):
            return {name} if side == "read" else set()
        case Product(outer, inner):
            return _reading(outer) | _reading(inner)
        case Concatenation(parts):
            return set().union(*map(_reading, parts))
    return set()


def _nested(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [value for value in config.values() if isinstance(value, Mapping)]
