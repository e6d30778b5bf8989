"""Pull-back by gradient: each block of the base is trained to do what the released block does.

As the closed form (`pull_back`), but all weights of a block move, and what is matched is what
leaves the block: given the student's own residual stream so far, the stream behind the released
block. So errors of earlier blocks are made up for by later ones. Block by block, a few Adam steps
each; what lies outside the layers is the released model's.

Source: "A3" of our own exploration, whose steps, rate and batch are the defaults here.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from unmergeable.attacks.attack import Attack, Before, Thief, Variant
from unmergeable.attacks.blocks import Blocks
from unmergeable.attacks.price import TRAINING, Meter
from unmergeable.attacks.sweep import best, named, points
from unmergeable.attacks.task_vector import finite, peers_vector, shared
from unmergeable.attacks.texts import TEXTS, pools
from unmergeable.merging.method import Corpus, State
from unmergeable.training.loop import Plan, train

if TYPE_CHECKING:
    import torch

PLAN = Plan((120,), 1e-3)
ITEMS = 48


def pull_back_gradient(
    thief: Thief, released: State, kind: str, plan: Plan = PLAN, size: int = ITEMS
) -> Iterator[Variant]:
    """Pulls back with each number of texts in turn.

    Args:
        thief: who does it.
        released: the aligned model.
        kind: of text.
        plan: the steps of one block; only its last stop counts. Rate and optimiser are swept, with
            a quarter of the steps, on the smallest number of texts.
        size: items per step.
    """
    if not finite(released):
        return
    both = set(shared(thief.base, released))
    chosen, sweep_seconds = plan, 0.0
    for place, (count, texts) in enumerate(pools(thief, kind)):
        student = {
            name: thief.base[name]
            if name in both and "layer" in thief.layout.placements[name].index
            else tensor
            for name, tensor in released.items()
        }

        def merged(plan: Plan, texts: Corpus = texts, student: State = student) -> State | None:
            few = replace(plan, stops=(max(1, plan.stops[-1] // 4),))
            made = _fitted(thief, texts, released, student, few, size, Meter.of(thief))
            return None if made is None else _added(thief, made, both)

        if place == 0:
            swept = best(thief, points(plan), merged)
            chosen, sweep_seconds = swept.option, swept.seconds
        meter = Meter.of(thief)
        fitted = _fitted(thief, texts, released, student, chosen, size, meter)
        if fitted is not None and finite(fitted):
            point = f", {named(chosen)}" if thief.judge else ""
            label = f"{count} {kind} texts, {plan.stops[-1]} steps a block{point}"
            yield Variant(
                label,
                fitted,
                unlabelled=count,
                flops=meter.flops,
                fresh=True,
                sweep_seconds=sweep_seconds,
            )
            sweep_seconds = 0.0


def _fitted(
    thief: Thief,
    texts: Corpus,
    released: State,
    student: State,
    plan: Plan,
    size: int,
    meter: Meter,
) -> State | None:
    blocks = Blocks(thief.runner, thief.layout, thief.base, texts)
    wanted, own = blocks.enter(released), blocks.enter(student)
    draw = random.Random(thief.seed)
    for layer in range(len(blocks)):
        thief.runner.load_state(released)
        wanted = blocks.onward(layer, wanted)
        days = [_some(texts, size, draw) for _ in range(plan.stops[-1])]

        def losses(
            step: int,
            layer: int = layer,
            days: list[list[int]] = days,
            own: list[torch.Tensor] = own,
            wanted: list[torch.Tensor] = wanted,
        ) -> Iterator[torch.Tensor]:
            positions = sum(wanted[batch][..., 0].numel() for batch in days[step])
            for batch in days[step]:
                goal, real = wanted[batch], blocks.real(batch, wanted[batch].shape[1])
                gap = blocks.run(layer, own[batch], batch).float() - goal
                if real is not None:
                    gap, goal = gap[real], goal[real]
                share = wanted[batch][..., 0].numel() / positions
                yield share * gap.square().mean() / goal.square().mean().clamp(min=1e-12)

        loop = train(
            thief.runner,
            student,
            losses,
            plan.rate_at,
            plan.stops[-1:],
            only=blocks.names[layer],
            optimiser=plan.optimiser,
        )
        found = next(loop, None)
        if found is None:
            return None
        student = found[1]
        size_of_block = sum(student[name].numel() for name in blocks.names[layer])
        seen = sum(wanted[batch][..., 0].numel() for day in days for batch in day)
        meter.flops += TRAINING * size_of_block * seen
        thief.runner.load_state(student)
        own = blocks.onward(layer, own)
    for _ in range(2):  # the released model's pass, and the student's
        meter.forward(texts.batches)
    return student


def _added(thief: Thief, fitted: State, names: set[str]) -> State:
    """The model and half of each peer's task vector: the plain merge that a sweep is judged by."""
    return {
        name: tensor + 0.5 * peers_vector(thief.peers, thief.base, name)
        if name in names
        else tensor
        for name, tensor in fitted.items()
    }


def _some(texts: Corpus, size: int, draw: random.Random) -> list[int]:
    """Batches of about this many items, by their places in the corpus."""
    chosen: list[int] = []
    count = 0
    for place in draw.sample(range(len(texts.batches)), len(texts.batches)):
        if count >= size:
            break
        chosen.append(place)
        count += len(texts.batches[place].items)
    return chosen


def pull_back_by_gradient(kind: str) -> Attack:
    """The pull-back on a kind of text."""

    def before(thief: Thief, released: State) -> Iterator[Variant]:
        return pull_back_gradient(thief, released, kind)

    act: Before = before
    return Attack(
        f"pull_back_gradient_{kind.replace('-', '_')}",
        f"pull-back by gradient, {kind} text",
        "Trains the base's blocks, one after the other, to do what the released model's do.",
        "text",
        before=act,
        texts=kind,
        sweeps=True,
        order=90,
    )


PULL_BACKS = tuple(pull_back_by_gradient(kind) for kind in TEXTS)
