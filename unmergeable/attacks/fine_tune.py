"""Fine-tuning on the thief's own labelled items: of the merge, or of the released model itself.

`fine_tune` repairs a merge: it can only bring back the thief's own task, so it matters where a
merge kept the protected skill and lost the peer's. `fine_tune_release` is a ceiling: open weights
may always be trained further, in whatever coordinates they come, and the result needs no merge.

With text, both also stay near the released model's answers to it, which slows forgetting.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from unmergeable.attacks.attack import Attack, Thief, Variant
from unmergeable.attacks.sweep import best, named, points
from unmergeable.attacks.texts import COUNTS, pools
from unmergeable.attacks.training_data import Lesson, learn, learn_briefly
from unmergeable.merging.method import Corpus, State
from unmergeable.training.loop import Plan

REPAIR = Plan((25, 50, 100, 200), 5e-5)
RELEASE = Plan((10, 20, 40, 80, 160), 5e-5)
ITEMS = 16


def tune(
    thief: Thief,
    released: State,
    start: State,
    plan: Plan,
    kind: str = "",
    size: int = ITEMS,
) -> Iterator[Variant]:
    """Fine-tunes on all of the thief's tasks, by the plan that a sweep around this one chose.

    Args:
        thief: who does it.
        released: whose answers to stay near, if there is text.
        start: the weights at first.
        plan: how long and how fast.
        kind: of text to stay near on; empty for none.
        size: items per step, of each task and of text.
    """
    lessons = [Lesson(corpus, size) for corpus in thief.labelled if corpus.batches]
    tasks = len(lessons)
    if not tasks:
        return
    near = ""
    for count, texts in list(pools(thief, kind, COUNTS[-1:])) if kind else []:
        lessons.append(Lesson(Corpus(texts.task, texts.batches), size, released))
        near = f", near the released model on {count} {kind} texts"
    if kind and not near:
        return
    swept = best(thief, points(plan), partial(learn_briefly, thief, start, lessons))
    point = f", {named(swept.option)}" if thief.judge else ""
    for learnt in learn(thief, start, lessons, swept.option):
        yield Variant(
            f"{learnt.steps} steps{near}{point}",
            learnt.state,
            unlabelled=sum(learnt.seen[tasks:]),
            labelled=sum(learnt.seen[:tasks]),
            flops=learnt.flops,
            sweep_seconds=swept.seconds if learnt.steps == plan.stops[0] else 0.0,
        )


def fine_tune(kind: str = "") -> Attack:
    """Fine-tuning of the merge; with a kind of text, near the released model on it."""

    def after(thief: Thief, released: State, merged: State) -> Iterator[Variant]:
        return tune(thief, released, merged, REPAIR, kind)

    return Attack(
        "fine_tune" + _near(kind, "_near"),
        "fine-tune the merge" + _near(kind, ", near the release on {} text"),
        "Trains the merge on the thief's own labelled items.",
        "labels",
        after=after,
        texts=kind,
        labels=True,
        sweeps=True,
        order=20,
    )


def fine_tune_release(kind: str = "") -> Attack:
    """Fine-tuning of the released model; with a kind of text, near itself on it."""

    def instead(thief: Thief, released: State) -> Iterator[Variant]:
        return tune(thief, released, released, RELEASE, kind)

    return Attack(
        "fine_tune_release" + _near(kind, "_near"),
        "fine-tune the release" + _near(kind, ", near itself on {} text"),
        "Trains the released model itself on the thief's own labelled items: no merge at all.",
        "ceiling",
        instead=instead,
        texts=kind,
        labels=True,
        sweeps=True,
        order=20,
    )


def _near(kind: str, words: str) -> str:
    return words.format(kind) if kind else ""


FINE_TUNES = (
    fine_tune(),
    fine_tune("generic"),
    fine_tune_release(),
    fine_tune_release("generic"),
)
