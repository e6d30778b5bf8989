"""Distilling: the released model's answers to unlabelled text are learnt, from one of two starts.

- `distil_merge` starts at the merge. What the merge kept of the skill need not be learnt again, so
  it is the cheapest repair known that a barrier cannot rule out.
- `distil_release` is a ceiling: it starts at the thief's own expert and uses no protected weight,
  only what the released model says. Whoever may run a model can do this.

Both learn, beside it, the thief's own experts' answers to their own inputs, so that what they know
is not lost. Own inputs cost the thief nothing and are not counted; their labels are not read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from unmergeable.attacks.attack import After, Attack, Before, Thief, Variant
from unmergeable.attacks.lessons import Lesson, learn
from unmergeable.attacks.texts import COUNTS, pools
from unmergeable.merging.method import State
from unmergeable.training.loop import Plan

PLAN = Plan((25, 50, 100, 150), 1e-4)
# Items per step of the released model's text, and of each of the thief's own tasks.
ITEMS, OWN_ITEMS = 24, 12


def distil(
    thief: Thief,
    released: State,
    start: State,
    kind: str,
    counts: Sequence[int] = COUNTS,
    plan: Plan = PLAN,
    sizes: tuple[int, int] = (ITEMS, OWN_ITEMS),
) -> Iterator[Variant]:
    """Distils with each number of texts in turn.

    Args:
        thief: who does it.
        released: the model to learn from.
        start: the student's weights at first.
        kind: of text.
        counts: how many texts.
        plan: how long and how fast.
        sizes: items per step of the text, and of each own task.
    """
    own = [
        Lesson(corpus, sizes[1], peer)
        for corpus, peer in zip(thief.labelled, thief.peers, strict=False)
    ]
    for count, texts in pools(thief, kind, counts):
        lesson = Lesson(texts, sizes[0], released)
        for learnt in learn(thief, start, [lesson, *own], plan):
            label = f"{count} {kind} texts, {learnt.steps} steps"
            yield Variant(
                label,
                learnt.state,
                unlabelled=learnt.seen[0],
                flops=learnt.flops,
                fresh=learnt.steps == plan.stops[0],
            )


def distil_merge(kind: str) -> Attack:
    """Distilling into the merge on a kind of text."""

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
    )


def distil_release(kind: str) -> Attack:
    """Distilling into the thief's own expert on a kind of text."""

    def instead(thief: Thief, released: State) -> Iterator[Variant]:
        for peer in thief.peers[:1]:
            yield from distil(thief, released, peer, kind)

    act: Before = instead
    return Attack(
        f"distil_release_{kind.replace('-', '_')}",
        f"distil the release, {kind} text",
        "Trains the peer to answer like the released model, without a look at its weights.",
        "ceiling",
        instead=act,
        texts=kind,
    )
