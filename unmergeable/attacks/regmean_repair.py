"""RegMean with the wrong texts: the merge that regression finds from whatever text there is.

RegMean (arXiv 2212.09849) merges each linear layer so that it agrees with each model on that
model's inputs. A hostile component that no text of the thief excites is averaged away. For the
released model's inputs the thief has his unlabelled texts; for his own models, their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from unmergeable.attacks.attack import After, Attack, Thief, Variant
from unmergeable.attacks.price import Meter
from unmergeable.attacks.task_vector import finite
from unmergeable.attacks.texts import COUNTS, TEXTS, first, items, pools
from unmergeable.errors import UnmergeableError
from unmergeable.merging.method import Corpus, Ingredients, MergeMethod, State

METHOD = "regmean"
# Inputs of each of the thief's own tasks, as many as the exploration took.
OWN_ITEMS = 600


def regmean_repair(
    thief: Thief, released: State, kind: str, own_items: int = OWN_ITEMS
) -> Iterator[Variant]:
    """Merges with each number of texts in turn; nothing where the method is not installed.

    Args:
        thief: who does it.
        released: the aligned model.
        kind: of text.
        own_items: inputs of each of the thief's own tasks.
    """
    method = _method()
    own = [_unlabelled(corpus, own_items) for corpus in thief.labelled]
    if method is None or len(own) != len(thief.peers) or not finite(released):
        return
    for count, texts in pools(thief, kind, COUNTS):
        meter = Meter.of(thief)
        for corpus in (texts, *own):
            meter.forward(corpus.batches)
        models = [released, *thief.peers]
        ingredients = Ingredients(
            models, thief.base, thief.layout, thief.runner, [texts, *own], thief.seed
        )
        try:
            merged = method(ingredients).state
        except (UnmergeableError, RuntimeError, ArithmeticError):
            continue  # weights that no solver likes
        if finite(merged):
            yield Variant(
                f"{count} {kind} texts", merged, unlabelled=count, flops=meter.flops, fresh=True
            )


def _method() -> MergeMethod | None:
    try:
        from unmergeable.merging.methods import OWN
    except ImportError:
        return None
    found: MergeMethod | None = OWN.get(METHOD)
    return found


def _unlabelled(corpus: Corpus, count: int) -> Corpus:
    batches = [replace(batch, labels=None) for batch in first(corpus.batches, count)]
    return Corpus(corpus.task, batches) if items(batches) else Corpus(corpus.task, [])


def regmean(kind: str) -> Attack:
    """RegMean on a kind of text."""

    def after(thief: Thief, released: State, merged: State) -> Iterator[Variant]:
        return regmean_repair(thief, released, kind)

    act: After = after
    return Attack(
        f"regmean_{kind.replace('-', '_')}",
        f"RegMean, {kind} text",
        "Merges by regression, with the thief's texts in place of the protected model's inputs.",
        "text",
        after=act,
        texts=kind,
        order=70,
    )


REGMEANS = tuple(regmean(kind) for kind in TEXTS)
