"""What may be added to tensors although no output shows it: nothing reads it.

A softmax does not see what is added to all that it compares. So one vector may be added to every
row of a head that it stands behind, or of a router, and one number to every entry of such a bias.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unmergeable.architectures.rules import ClassRule, TensorRule
from unmergeable.gauge.notation import Atom, Axis

if TYPE_CHECKING:
    from unmergeable.architectures.layout import Layout

Shapes = Mapping[str, tuple[int, ...]]
# Classes whose words, or labels, a softmax compares; what compares positions or choices is none.
_SOFTMAX = (
    "ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "MTModel", "ForMaskedLM", "ForCTC",
    "ForPreTraining", "ForSequenceClassification", "ForTokenClassification",
    "ForImageClassification", "ForImageClassificationWithTeacher", "ForAudioClassification",
)  # fmt: skip
# Of a config: caps on the words' logits, and what is trained without a softmax over labels.
_CAP = "final_logit_softcapping"
_APART = ("regression", "multi_label_classification")


@dataclass(frozen=True, eq=False)
class Direction:
    """Ones along one axis of a tensor: any multiple of it may be added, at each other position.

    Attributes:
        name: of the tensor.
        axis: the number of the axis.
    """

    name: str
    axis: int


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
    return [
        Direction(name, axis)
        for name, placement in layout.placements.items()
        if placement.rule.begins_with_any(layout.softmax)
        for axis in _compared(placement.rule, shapes[name])
    ]


def _compared(rule: TensorRule, shape: tuple[int, ...]) -> Iterator[int]:
    """The axis of the scores that a tensor writes, if it has one, and more than one score."""
    axes = list(zip(rule.axes, shape, strict=True))
    written = [n for n, (axis, size) in enumerate(axes) if size > 1 and not _reads(axis)]
    if len(written) == 1:
        yield written[0]


def _reads(axis: Axis) -> bool:
    return isinstance(axis, Atom) and axis.side == "read"


def _nested(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [value for value in config.values() if isinstance(value, Mapping)]
