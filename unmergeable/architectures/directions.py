"""What may be added to tensors although no output shows it: nothing reads it.

A softmax does not see what is added to all that it compares. So one vector may be added to every
row of a head that it stands behind, or of a router, and one number to every entry of such a bias.

A LayerNorm takes the mean off what it reads. So what writes into a stream that nothing but
LayerNorms read may add the same to all its positions, a multiple of the all-ones vector; so may a
block that a LayerNorm stands behind, whatever else reads the stream. Where a layer scale stands
between, it is a multiple of one over the scale. What a LayerNorm gives sums to zero before its
gain; where it has none, what reads it may have the same added to all positions, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unmergeable.architectures.normed import is_depthwise, normed_of
from unmergeable.architectures.norms import norms_of
from unmergeable.architectures.post_norms import post_norms_of
from unmergeable.architectures.rules import ClassRule, TensorRule
from unmergeable.gauge.axis_map import Index
from unmergeable.gauge.notation import Atom, reads, sides

if TYPE_CHECKING:
    from unmergeable.architectures.layout import Layout

Shapes = Mapping[str, tuple[int, ...]]
# Classes whose words a softmax compares, and whose labels; positions or choices are neither.
_WORDS = (
    "ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "MTModel", "ForMaskedLM", "ForCTC",
    "ForPreTraining", "BertGenerationDecoder", "EncoderDecoderModel",
)  # fmt: skip
_SOFTMAX = (
    *_WORDS, "ForSequenceClassification", "ForTokenClassification", "ForImageClassification",
    "ForImageClassificationWithTeacher", "ForAudioClassification",
)  # fmt: skip
# Of a config: caps on the words' logits, and what is trained without a softmax over labels.
_CAP = "final_logit_softcapping"
_APART = ("regression", "multi_label_classification")


@dataclass(frozen=True, eq=False)
class Over:
    """A gain or a layer scale, of which one over each number makes a direction.

    Attributes:
        gain: the tensor's name.
        offset: what is added to its stored numbers.
        places: for each position of the direction's axis, that of the gain, shape (n,).
    """

    gain: str
    offset: float
    places: Index


@dataclass(frozen=True, eq=False)
class Direction:
    """A vector along one axis of a tensor: any multiple may be added, at each other position.

    Attributes:
        name: of the tensor.
        axis: the number of the axis.
        rows: whether it is behind a softmax, which tells no rows apart.
        over: what the vector is one over; None for the all-ones vector.
    """

    name: str
    axis: int
    rows: bool = False
    over: Over | None = None


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
    if not layout.centred and not layout.post_norms:
        return found
    plain = set(_without_gain(layout))
    found += [Direction(*one) for one in sorted(plain)]
    readers, scaled = set(plain), {}
    for norm in norms_of(layout, shapes):
        if not all(reads(layout.placements[t.name].rule.axes[t.axis]) for t in norm.readers):
            for touch in norm.readers:  # a layer scale, under which ones are not ones
                over = Over(norm.gain, norm.offset, touch.places)
                scaled[touch.name, touch.axis] = over
        elif isinstance(norm.axis, Atom) and not _is_bound(layout, norm.gain):
            readers |= {(touch.name, touch.axis) for touch in norm.readers}
    before = set(_before_norms(layout, shapes))
    for space in sorted(layout.centred - layout.exposed):
        before |= set(_writers(layout, shapes, space, readers))
    return found + [Direction(*one, over=scaled.get(one)) for one in sorted(before)]


def _before_norms(layout: Layout, shapes: Shapes) -> Iterator[tuple[str, int]]:
    """What writes into a sum that one LayerNorm reads, and into nothing else."""
    for norm in normed_of(layout, shapes):
        # A convolution with a kernel for each channel weighs by channel; its bias adds alone.
        writers = [writer for writer in norm.writers if not writer.passes]
        axes = {layout.placements[one.name].rule.axes[one.axis] for one in writers}
        # A norm behind the gain of another may be one that takes no mean off.
        for writer in writers if norm.centred and axes == {Atom(norm.space)} else ():
            if not _is_kept(layout, writer.name):
                yield writer.name, writer.axis
    for post in post_norms_of(layout, shapes):
        for touch in post.writers:
            if not _is_bound(layout, touch.name):
                yield touch.name, touch.axis


def _without_gain(layout: Layout) -> Iterator[tuple[str, int]]:
    """What reads LayerNorms, in a model whose norms have no gains."""
    placed = layout.placements.items()
    if any(rule.is_norm(placement.rule) for rule in layout.norms for _, placement in placed):
        return
    for name, placement in placed:
        if any(rule.is_read_by(placement.rule) for rule in layout.norms):
            for axis, one in enumerate(placement.rule.axes):
                if isinstance(one, Atom) and one.side == "read" and one.name in layout.centred:
                    yield name, axis


def _writers(
    layout: Layout, shapes: Shapes, space: str, readers: set[tuple[str, int]]
) -> Iterator[tuple[str, int]]:
    """What writes into a stream, if LayerNorms read it and nothing else."""
    found, seen = [], False
    for name, placement in layout.placements.items():
        axes = placement.rule.axes
        for number, axis in enumerate(axes):
            stands = sides(axis, space)
            if {"read", "order"} & {*stands} and is_depthwise(shapes[name], number):
                return
            if "read" in stands:
                if (name, number) not in readers:
                    return
                seen = True
            elif axis == Atom(space) and not any(r.is_norm(placement.rule) for r in layout.norms):
                found += [] if _is_kept(layout, name) else [(name, number)]
    if seen:
        yield from found


def _is_kept(layout: Layout, name: str) -> bool:
    """Whether nothing may be added to a tensor, as it is the head, too, or by declaration."""
    axes = layout.placements[name].rule.axes
    is_words = any("vocab" in axis.names() for axis in axes)
    return _is_bound(layout, name) or (is_words and is_tied(layout))


def _is_bound(layout: Layout, name: str) -> bool:
    """Whether a declaration says that nothing may be added to a tensor."""
    return layout.placements[name].rule.begins_with_any(layout.bound)


def is_tied(layout: Layout) -> bool:
    """Whether the embeddings are the head, too."""
    heads = (
        p
        for p in layout.placements.values()
        if any(axis == Atom("vocab") for axis in p.rule.axes) and any(map(reads, p.rule.axes))
    )
    return layout.model_class.endswith(_WORDS) and not any(heads)


def _compared(rule: TensorRule, shape: tuple[int, ...]) -> Iterator[int]:
    """The axis of the scores that a tensor writes, if it has one, and more than one score."""
    axes = list(zip(rule.axes, shape, strict=True))
    written = [n for n, (axis, size) in enumerate(axes) if size > 1 and not reads(axis)]
    if len(written) == 1:
        yield written[0]


def _nested(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [value for value in config.values() if isinstance(value, Mapping)]
