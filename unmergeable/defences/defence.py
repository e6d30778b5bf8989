"""What a defence is: it looks at a model, decides, and makes its gauge from key and decision."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from unmergeable.architectures.layout import Layout
from unmergeable.gauge.axis_map import Float
from unmergeable.gauge.notation import Gauge
from unmergeable.keys import Key


@dataclass(frozen=True, eq=False)
class Subject:
    """What a defence may look at: the model to protect, as the defences before it leave it.

    Attributes:
        layout: the model's.
        key: the owner's.
        dtypes: of its tensors, named as in safetensors headers: "BF16".
        values: a tensor of the model by name, float64, in its shape.
        base: the same of the public base; None if it was not given.
    """

    layout: Layout
    key: Key
    dtypes: frozenset[str]
    values: Callable[[str], Float]
    base: Callable[[str], Float] | None = None


@dataclass(frozen=True)
class Decision:
    """What a defence chose for one model.

    Attributes:
        settings: public and JSON-able; enough, with key and secret, to make the gauge again.
        lossless: whether unlocking gives the original's bits.
        bits: entropy drawn from the key per space, in bits.
        secret: what unlocking needs and neither key nor settings give, such as a permutation found
            by assignment; the manifest holds it encrypted under the key.
        measured: public figures for the manifest, such as condition numbers.
    """

    settings: dict[str, Any]
    lossless: bool
    bits: dict[str, float]
    secret: bytes = b""
    measured: dict[str, Any] = field(default_factory=dict)


class Defence(ABC):
    """A function-preserving change of a finished model.

    Attributes:
        name: as the command line takes it.
        title: for people.
        settings: by name, a sentence each.
        needs_base: whether it cannot decide without the public base.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    settings: ClassVar[Mapping[str, str]]
    needs_base: ClassVar[bool] = False

    @abstractmethod
    def decide(self, given: Mapping[str, Any], subject: Subject) -> Decision:
        """Chooses for one model.

        Args:
            given: settings by name; strings as they come from a command line are understood.
            subject: the model.

        Raises:
            InputError: an unknown setting or value, or a model that this defence cannot move.
        """

    @abstractmethod
    def gauge(self, key: Key, layout: Layout, settings: Mapping[str, Any], secret: bytes) -> Gauge:
        """The element on each instance of each space, made again from what was decided."""
