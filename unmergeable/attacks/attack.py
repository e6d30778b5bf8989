"""An attack, as the audit sees it: done before merging, after it, or instead of it.

A thief holds the released model, the public base, experts of his own with their labelled data, and
unlabelled text. He never sees the original, the key or the manifest, and nothing here hands them to
him. Alignment (`align`) is where every attack starts; those beside this file repair what alignment
leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from unmergeable.architectures.layout import Layout
from unmergeable.merging.method import Corpus, State
from unmergeable.models.model_runner import ModelRunner

Stage = Literal["none", "align", "data-free", "text", "labels", "ceiling"]
# The attacks that need no common coordinates with the base, by how their names begin: a verdict may
# rest on them where alignment fails, so no attack of a package takes such a name.
COORDINATE_FREE = {"pull_back": "pull-back", "distil_merge": "distillation into the merge"}


@dataclass(frozen=True, eq=False)
class Thief:
    """All that an attack may look at.

    Attributes:
        base: the public base's tensors by name, float32.
        peers: the thief's own experts', by the same names.
        layout: which axis of which tensor is what.
        runner: runs weights; an attack may load any weights.
        texts: unlabelled inputs for the protected model's task, by kind ("generic", "near",
            "in-domain"), as far as the audit was given any.
        labelled: per peer, inputs of its own task with their labels, as far as given.
        validation: per model, the protected one's first, the validation items of its task that
            coefficients are chosen on, with their labels; empty if there are none.
        judge: from a merge to how good it is on those items of every task; greater is better. None
            where nothing can be chosen.
        seed: of whatever the attack draws.
    """

    base: State
    peers: Sequence[State]
    layout: Layout
    runner: ModelRunner
    texts: Mapping[str, Corpus] = field(default_factory=dict)
    labelled: Sequence[Corpus] = ()
    validation: Sequence[Corpus] = ()
    judge: Callable[[State], float] | None = None
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Variant:
    """One thing that an attack tried.

    Attributes:
        label: tells it from the attack's other variants.
        state: the tensors it made.
        unlabelled: how many unlabelled items it used so far.
        labelled: how many labelled ones.
        flops: floating-point operations spent so far, if they matter.
        fresh: whether it starts a run of its own, so that what the attack spent on the variants
            before it does not count towards its price. A snapshot that goes on from the one before
            it is not fresh.
        sweep_seconds: seconds that were spent, just before it, on choosing settings. They are no
            part of its price, as those of choosing a merge's coefficients are none of the merge's.
    """

    label: str
    state: State
    unlabelled: int = 0
    labelled: int = 0
    flops: float = 0.0
    fresh: bool = False
    sweep_seconds: float = 0.0


Before = Callable[[Thief, State], Iterator[Variant]]
After = Callable[[Thief, State, State], Iterator[Variant]]


@dataclass(frozen=True)
class Attack:
    """An attack.

    Exactly one of `before`, `after` and `instead` is set. Each yields variants as it goes, so that
    the caller can time and score them one by one and stop early.

    Attributes:
        name: as users type it.
        title: for tables.
        what: one sentence for people.
        stage: how expensive it is.
        before: from the released (aligned) model to what is merged in its place.
        after: from the released (aligned) model and a merge of it to a better merge.
        instead: from the released model to a model that nothing need be merged into.
        texts: the kind of unlabelled text it needs, or empty.
        labels: whether it needs the thief's labelled data.
        suits: from a thief to why it does not apply to models of this kind; empty where it does.
        sweeps: whether it trains, with settings that it chooses on validation items.
        alone: the same attack without the released model: what the thief's items are worth by
            themselves. It is reported beside the attack, and counts for nothing.
    """

    name: str
    title: str
    what: str
    stage: Stage
    before: Before | None = None
    after: After | None = None
    instead: Before | None = None
    texts: str = ""
    labels: bool = False
    suits: Callable[[Thief], str] = lambda thief: ""
    sweeps: bool = False
    alone: After | None = None
