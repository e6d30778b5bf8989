"""Pull-back by ridge regression: the base's blocks are fitted to the released model's, closed form.

A student that starts as the base is walked through layer by layer. Each of its matrices that writes
into the residual stream (attention's output, the FFN's) is refitted so that, on the student's own
inputs, the module says what the released model's module says on the same texts; ridge regression
keeps it near the base where the texts say nothing. What the released model computes comes over;
where its weights stand does not, except in those matrices. So whatever a defence did to the other
weights (another basis, another FFN) is gone, and the student merges as a model near the base does.

It is assumed that both models share the residual stream's coordinates, as they do after alignment,
and a layer's contribution to it; an unaligned model is pulled back to nonsense, and harmless.

What stands on the residual stream alone, norms and embeddings and heads, cannot be fitted this way.
It is taken from the released model in one variant, and from the base in the other.

Sources: "RF" of our own exploration; AGA (anchor-guided alignment) fits the same least squares.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from unmergeable.attacks.attack import Attack, Before, Thief, Variant
from unmergeable.attacks.blocks import Blocks
from unmergeable.attacks.parts import layers, part, residual, writers
from unmergeable.attacks.price import Meter
from unmergeable.attacks.ridge_fit import RidgeFit
from unmergeable.attacks.synthetic_inputs import SYNTHETIC, TITLES, suits
from unmergeable.attacks.task_vector import finite, shared
from unmergeable.attacks.texts import COUNTS, TEXTS, first, items, pools
from unmergeable.merging.method import Corpus, State

if TYPE_CHECKING:
    import torch

RIDGE = 1e-2
SYNTHETIC_ITEMS = 128  # synthetic inputs: as many positions as most layers have neurons


def frames(thief: Thief, released: State, kept: str = "") -> Iterator[tuple[str, State]]:
    """Where the student starts: the base, with what cannot be fitted from the released model.

    Then the base as it is, and the base with one more part of the released model, if one is named.
    """
    both, taken = set(shared(thief.base, released)), frame_names(thief)
    base = {name: thief.base[name] if name in both else tensor for name, tensor in released.items()}
    frame = {name: released[name] for name in both & taken}
    yield "norms and embeddings of the release", {**base, **frame}
    if any(not tensor.equal(base[name]) for name, tensor in frame.items()):
        yield "norms and embeddings of the base", base
    if kept:
        own = {n: released[n] for n in both if part(thief.layout, n) == kept}
        yield f"{kept}, norms and embeddings of the release", {**base, **frame, **own}


def frame_names(thief: Thief) -> set[str]:
    """The tensors outside the layers, and those inside that only the residual stream touches."""
    stream = residual(thief.layout)
    return {
        name
        for name, placement in thief.layout.placements.items()
        if "layer" not in placement.index
        or {space for axis in placement.rule.axes for space in axis.names()} == {stream}
    }


def pull_back(
    thief: Thief,
    released: State,
    kind: str,
    ridge: float = RIDGE,
    counts: Sequence[int] = COUNTS,
) -> Iterator[Variant]:
    """Pulls back with each number of texts in turn.

    Args:
        thief: who does it.
        released: the aligned model.
        kind: of text.
        ridge: penalty on the distance to the base, relative to the mean square of the inputs.
        counts: how many texts, rising.
    """
    if not finite(released):
        return
    meter = Meter.of(thief)
    free = kind in SYNTHETIC
    for count, texts in pools(thief, kind, counts, released):
        if free:
            texts = Corpus(texts.task, first(texts.batches, SYNTHETIC_ITEMS))
            count = items(texts.batches)
        for label, student in frames(thief, released, "attention" if free else ""):
            meter.flops = 0.0
            fitted = _fitted(thief, texts, released, student, ridge, meter)
            if fitted is not None and finite(fitted):
                yield Variant(
                    f"{count} {TITLES.get(kind, f'{kind} texts')}, {label}",
                    fitted,
                    unlabelled=0 if free else count,
                    flops=meter.flops,
                    fresh=True,
                )


def _fitted(
    thief: Thief,
    texts: Corpus,
    released: State,
    student: State,
    ridge: float,
    meter: Meter,
) -> State | None:
    """The student with its writing matrices refitted, layer by layer."""
    state, outs = dict(student), writers(thief.layout)
    blocks = Blocks(thief.runner, thief.layout, thief.base, texts)
    wanted, own = blocks.enter(released), blocks.enter(student)
    meter.forward(texts.batches)

    def refit(name: str, layer: int, targets: Sequence[torch.Tensor]) -> bool:
        fit = RidgeFit.of(state, name, outs[name], ridge)
        thief.runner.load_state(state)
        for batch, x in enumerate(blocks.heard(name, layer, own)):
            fit.add(x, targets[batch], blocks.real(batch, x.shape[1]))
        new = fit.solved()
        meter.flops += fit.flops
        state.update(new or {})
        thief.runner.load_state(state)
        return new is not None

    for layer in range(len(blocks)):
        thief.runner.load_state(released)
        chosen = [name for name in blocks.names[layer] if name in outs]
        said, wanted = blocks.said(chosen, layer, wanted)
        if not all(refit(name, layer, targets) for name, targets in said.items()):
            return None
        own = blocks.onward(layer, own)
        if not all(math.isfinite(float(stream.sum())) for stream in own):
            return None
    # each block ran once for what follows it, and once, at most, for each fit in it
    for _ in range(1 + len(outs) // len(blocks)):
        meter.forward(texts.batches)
    return state


def pull_back_ridge(kind: str) -> Attack:
    """The pull-back on a kind of text."""

    def before(thief: Thief, released: State) -> Iterator[Variant]:
        return pull_back(thief, released, kind)

    act: Before = before
    if kind in SYNTHETIC:
        return Attack(
            f"pull_back_{kind}",
            f"pull-back, {TITLES[kind]}",
            "Refits the base's output matrices to the release's, on inputs that cost nothing.",
            "data-free",
            before=act,
            suits=lambda thief: unwalkable(thief) or suits(kind)(thief),
            order=60,
        )
    return Attack(
        f"pull_back_{kind.replace('-', '_')}",
        f"pull-back, {kind} text",
        "Refits the base's output matrices to the released model's, layer by layer, closed form.",
        "text",
        before=act,
        texts=kind,
        order=60,
    )


def unwalkable(thief: Thief) -> str:
    """Why a model cannot be refitted layer by layer; empty if it can."""
    if layers(thief.layout, "layer") and writers(thief.layout):
        return ""
    return "the layers of this model are not one stack"


PULL_BACKS = tuple(pull_back_ridge(kind) for kind in (*SYNTHETIC, *TEXTS))
