"""Distilling: the released model's answers to unlabelled text are learnt, from one of two starts.

- `distil_merge` starts at the merge. What the merge kept of the skill need not be learnt again, so
  it is the cheapest repair known that a barrier cannot rule out.
- `distil_release` is a ceiling: it starts at the thief's own expert and uses no protected weight,
  only what the released model says. Anyone who may run a model can do this.

Both learn, beside it, the thief's own experts' answers to their own inputs, so that what they know
is not lost. Own inputs cost the thief nothing and are not counted; their labels are not read.

The text may be synthetic (`synthetic_inputs`): random inputs, or what the release writes itself.

A merge to start from need not be the best plain one: `starts` are the options, among which
validation items choose.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING

from unmergeable.attacks.attack import After, Attack, Before, Thief, Variant
from unmergeable.attacks.parts import part
from unmergeable.attacks.pull_back import pull_back, unwalkable
from unmergeable.attacks.sweep import best, named, points
from unmergeable.attacks.synthetic_inputs import SYNTHETIC, TITLES, suits
from unmergeable.attacks.task_vector import finite, peers_vector, shared
from unmergeable.attacks.texts import COUNTS, TEXTS, pools
from unmergeable.attacks.training_data import Lesson, learn, learn_briefly
from unmergeable.merging.method import Corpus, State
from unmergeable.merging.task_vectors import Computed
from unmergeable.training.loop import Plan

if TYPE_CHECKING:
    import torch

PLAN = Plan((25, 50, 100, 150), 1e-4)
# Twenty steps were enough against every barrier that was trained.
SYNTHETIC_PLAN = Plan((5, 20, 40), 2e-4)
# Items per step of the released model's text, and of each of the thief's own tasks.
ITEMS, OWN_ITEMS = 24, 12
FEW_ITEMS = (8, 8)
RESETS = ("attention", "FFN", "norms and biases")


def distil(
    thief: Thief,
    released: State,
    start: State,
    kind: str,
    counts: Sequence[int] = COUNTS,
    plan: Plan = PLAN,
    sizes: tuple[int, int] = (ITEMS, OWN_ITEMS),
    merged: bool = True,
) -> Iterator[Variant]:
    """Distils with each number of texts in turn, by the plan that a sweep around this one chose.

    Args:
        thief: who does it.
        released: the model to learn from.
        start: the student's weights at first.
        kind: of text.
        counts: how many texts.
        plan: how long and how fast.
        sizes: items per step of the text, and of each own task.
        merged: whether `start` is a merge, to which there are others (`starts`).
    """
    own = [
        Lesson(corpus, sizes[1], peer)
        for corpus, peer in zip(_own(thief), thief.peers, strict=False)
    ]
    free, chosen, sweep_seconds = kind in SYNTHETIC, plan, 0.0
    for place, (count, texts) in enumerate(pools(thief, kind, counts, released)):
        lessons = [Lesson(texts, sizes[0], released), *own]

        def from_start(one: Variant, lessons: list[Lesson] = lessons) -> State | None:
            return learn_briefly(thief, one.state, lessons, plan) if free else one.state

        begun = Variant("", start)
        if merged:
            clock = perf_counter()
            options = list(starts(thief, released, start, kind, count))
            making = perf_counter() - clock
            found = best(thief, options, from_start)
            begun = found.option
            # What the chosen start took is part of the price.
            sweep_seconds = found.seconds + (0.0 if begun.unlabelled else making)
        if place == 0:
            swept = best(thief, points(plan), partial(learn_briefly, thief, begun.state, lessons))
            chosen, sweep_seconds = swept.option, sweep_seconds + swept.seconds
        for learnt in learn(thief, begun.state, lessons, chosen):
            told = [f"{count} {TITLES.get(kind, f'{kind} texts')}", f"{learnt.steps} steps"]
            told += [named(chosen)] if thief.judge else []
            told += [f"from {begun.label}"] if begun.label else []
            fresh = learnt.steps == chosen.stops[0]
            yield Variant(
                ", ".join(told),
                learnt.state,
                unlabelled=0 if free else max(begun.unlabelled, learnt.seen[0]),
                flops=begun.flops + learnt.flops,
                fresh=fresh,
                sweep_seconds=sweep_seconds if fresh else 0.0,
            )
            sweep_seconds = 0.0


def starts(
    thief: Thief, released: State, merged: State, kind: str, count: int
) -> Iterator[Variant]:
    """Where distilling may start: the given merge, and all task vectors added in other ways.

    On synthetic inputs, as they are, and with one part of the release put back to the base, the one
    whose sum is judged best. On text, with the release pulled back on this many items of it.
    """
    yield Variant("the best merge" if kind in SYNTHETIC else "", merged)
    if not finite(released) or thief.judge is None:
        return
    if kind in SYNTHETIC:
        yield Variant("all task vectors", added(thief, released))
        sums = [(name, added(thief, released, name)) for name in RESETS]
        name, state = best(thief, sums, lambda one: one[1]).option
        yield Variant(f"all task vectors, {name} of the release at base", state)
    elif not unwalkable(thief):
        for one in pull_back(thief, released, kind, counts=(count,)):
            yield replace(
                one, label="all task vectors, after a pull-back", state=added(thief, one.state)
            )


def added(thief: Thief, released: State, reset: str = "") -> State:
    """The base and every task vector, made when asked for; without the release's of one part."""
    both = set(shared(thief.base, released))

    def make(name: str) -> torch.Tensor:
        if name not in both:
            return released[name]
        start = thief.base[name] if part(thief.layout, name) == reset else released[name]
        return start + peers_vector(thief.peers, thief.base, name)

    return Computed(released, make)


def _own(thief: Thief) -> list[Corpus]:
    """Inputs of the thief's own tasks, without labels: his training items, or his validation."""
    if any(corpus.batches for corpus in thief.labelled):
        return list(thief.labelled)
    return [
        Corpus(corpus.task, [replace(batch, labels=None) for batch in corpus.batches])
        for corpus in thief.validation[1:]
    ]


def distil_merge(kind: str) -> Attack:
    """Distilling into the merge on a kind of text."""
    if kind in SYNTHETIC:
        return _distil_synthetic(kind)

    def after(thief: Thief, released: State, merged: State) -> Iterator[Variant]:
        return distil(thief, released, merged, kind)

    act: After = after
    return Attack(
        f"distil_merge_{kind.replace('-', '_')}",
        f"distil into the merge, {kind} text",
        "Trains the merge to answer like the released model, and like the peer on its own inputs.",
        "text",
        after=act,
        texts=kind,
        sweeps=True,
        order=80,
    )


def _distil_synthetic(kind: str) -> Attack:
    def after(thief: Thief, released: State, merged: State) -> Iterator[Variant]:
        return distil(thief, released, merged, kind, plan=SYNTHETIC_PLAN, sizes=FEW_ITEMS)

    act: After = after
    return Attack(
        f"distil_merge_{kind}",
        f"distil into the merge, {TITLES[kind]}",
        "Trains the merge to answer like the released model on inputs that cost nothing.",
        "data-free",
        after=act,
        suits=suits(kind),
        sweeps=True,
        order=80,
    )


def distil_release(kind: str) -> Attack:
    """Distilling into the thief's own expert on a kind of text."""

    def instead(thief: Thief, released: State) -> Iterator[Variant]:
        for peer in thief.peers[:1]:
            yield from distil(thief, released, peer, kind, merged=False)

    act: Before = instead
    return Attack(
        f"distil_release_{kind.replace('-', '_')}",
        f"distil the release, {kind} text",
        "Trains the peer to answer like the released model, without a look at its weights.",
        "ceiling",
        instead=act,
        texts=kind,
        sweeps=True,
        order=80,
    )


DISTILLATIONS = (
    *(distil_merge(kind) for kind in (*SYNTHETIC, *TEXTS)),
    *(distil_release(kind) for kind in TEXTS),
)
