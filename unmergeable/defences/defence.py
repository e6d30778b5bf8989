"""What defences have in common, and the two kinds that are put on a finished model.

A `Defence` carries all that is said of it: name, title, paper, settings, what its sources claim,
its rows in the field benchmark. Commands, tables and pages are made from that.

A `GaugeDefence` chooses an element on each space of a model: the declarations say which tensors
that moves. So weights, biases, norm gains and tied heads follow by themselves, and undoing such a
defence is applying the inverse. A `Rebuild` changes the architecture instead. What is learned is a
[`TrainingDefence`][unmergeable.defences.training_defence.TrainingDefence].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy.typing as npt

from unmergeable.architectures.layout import Layout
from unmergeable.checkpoint.folder import ModelFolder
from unmergeable.gauge.axis_map import Float
from unmergeable.gauge.notation import Gauge
from unmergeable.keys.key import Key
from unmergeable.settings import Setting


@dataclass(frozen=True)
class Claim:
    """What a source says of a defence, to stand beside what is measured.

    Attributes:
        source: the paper, and on what; figures are as it reports them.
        claim: in words.
        claimed: the figure.
        measure: what it is compared with: "released", V of the released model under unmodified
            merge tools; "attacked", V after the best attack; "own", accuracy that the released
            model itself loses.
    """

    source: str
    claim: str
    claimed: str
    measure: Literal["released", "attacked", "own"]


@dataclass(frozen=True)
class FieldRow:
    """A row of the field benchmark.

    Attributes:
        name: as `bench field --defence` takes it.
        title: in tables.
        settings: of the defence; of `then`, where what is learned is locked afterwards.
        then: what is put on afterwards, as `protect --defence` takes it.
        main: whether it meets merges of many models, too.
        extra: whether it is left out unless it is asked for by name.
        order: where it stands in tables; low ones first.
    """

    name: str
    title: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    then: str = ""
    main: bool = False
    extra: bool = False
    order: int = 1000


@dataclass(frozen=True)
class Summary:
    """A defence's row in the table of the page on defences.

    Attributes:
        claims: what its authors claim of it.
        exact: whether the function stays.
        needs: what its owner must have.
        changes: what is another in the folder.
        undone_by: the attack that undoes it.
    """

    claims: str
    exact: str
    needs: str
    changes: str
    undone_by: str


class Defence(ABC):
    """A way to protect a model.

    Attributes:
        name: as users type it.
        title: for people.
        paper: where it comes from.
        settings: what `--set` takes.
        summary: its row in the page on defences.
        claims: what its sources say of it.
        rows: its rows in the field benchmark.
        reconstructed: whether ours was written without its code or its full paper.
        order: where it stands in lists; low ones first.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]
    settings: ClassVar[Mapping[str, Setting]] = {}
    summary: ClassVar[Summary | None] = None
    claims: ClassVar[Sequence[Claim]] = ()
    rows: ClassVar[Sequence[FieldRow]] = ()
    reconstructed: ClassVar[bool] = False
    order: ClassVar[int] = 1000


@dataclass(frozen=True, eq=False)
class Subject:
    """What a defence may look at: the model to protect, as the defences before it leave it.

    Attributes:
        layout: of the model.
        key: the owner's.
        dtypes: formats of its tensors, by their names in safetensors headers.
        values: a tensor of the model by name, float64, in its shape.
        base: the same of the public base; None if no base was given.
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
        settings: public and JSON-able; with key and secret they make the same gauge again.
        lossless: whether only permutations, signs and powers of two are at work.
        bits: entropy drawn from the key for each space, in bits.
        secret: what unlocking needs and neither key nor settings give, such as a permutation that
            an assignment problem chose. The manifest holds it encrypted under the key.
        measured: public figures for the manifest, such as condition numbers.
    """

    settings: dict[str, Any]
    lossless: bool
    bits: dict[str, float]
    secret: bytes = b""
    measured: dict[str, Any] = field(default_factory=dict)


class GaugeDefence(Defence):
    """A defence of a finished model that keeps its architecture and its function.

    Attributes:
        needs_base: whether it looks at the public base.
    """

    needs_base: ClassVar[bool] = False

    @abstractmethod
    def decide(self, given: Mapping[str, Any], subject: Subject) -> Decision:
        """Fills in defaults, checks what was given, and makes every choice for one model.

        Args:
            given: values by name; strings as they come from a command line are understood.
            subject: the model.

        Raises:
            InputError: an unknown setting or value; a model that the defence cannot treat.
            PrecisionError: rounding would cost more than the settings allow.
        """

    @abstractmethod
    def gauge(self, key: Key, layout: Layout, settings: Mapping[str, Any], secret: bytes) -> Gauge:
        """The element on each instance of each space, from what a manifest keeps.

        Args:
            key: the owner's.
            layout: of the model.
            settings: as decided.
            secret: as decided.
        """


@dataclass(frozen=True, eq=False)
class Rebuilt:
    """A model of another architecture.

    Attributes:
        tensors: by name, in the dtypes they are stored in.
        config: config.json's content.
        files: further files of the folder, by name: the code that runs it.
        settings: public and JSON-able.
        measured: public figures for the manifest.
    """

    tensors: dict[str, npt.NDArray[Any]]
    config: dict[str, Any]
    files: dict[str, bytes]
    settings: dict[str, Any]
    measured: dict[str, Any]


class Rebuild(Defence):
    """A defence of a finished model that changes the architecture.

    No key undoes it, and it comes last.
    """

    @abstractmethod
    def rebuild(
        self,
        folder: ModelFolder,
        subject: Subject,
        given: Mapping[str, Any],
        data: Sequence[str],
    ) -> Rebuilt:
        """Makes the model of the new architecture.

        Args:
            folder: the stock model's; its weights are read through the subject.
            subject: the model.
            given: settings by name.
            data: unlabelled texts or paths of images.

        Raises:
            InputError: an unknown setting or value, or no data.
            UnsupportedError: an architecture, activation or dtype that is not treated, named.
        """
