"""Pull-back restores merges of a model whose FFN computes the same in another way."""

from dataclasses import replace
from functools import partial

import pytest
import torch

from tests.attacks.robbed import (
    ROBBED,
    answers,
    corpus,
    gap,
    merge,
    reordered,
    thief_of,
)
from unmergeable.attacks.blocks import Blocks
from unmergeable.attacks.pull_back import frames, pull_back
from unmergeable.attacks.pull_back_gradient import pull_back_gradient
from unmergeable.evaluation.scoring import precision
from unmergeable.training.loop import Plan


def robbed(family, count=96):
    thief, expert = thief_of(family)
    thief = replace(thief, texts={"generic": corpus(family, count, 1, size=32)})
    return thief, expert, reordered(thief, expert)


def error(thief, state, clean, held):
    """How far a model's answers are from those of the clean merge."""
    wanted = answers(thief, clean, held)
    return float((answers(thief, state, held) - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("family", ROBBED, ids=lambda family: family.name)
def test_ridge_restores_the_merge_of_a_regrown_ffn(family):
    thief, expert, released = robbed(family)
    held = corpus(family, 32, 2)
    clean = merge(thief, expert)
    torch.testing.assert_close(
        answers(thief, released, held), answers(thief, expert, held), atol=1e-3, rtol=1e-3
    )
    before = error(thief, merge(thief, released), clean, held)
    without = error(thief, merge(thief, thief.base), clean, held)
    variants = list(pull_back(thief, released, "generic"))
    after = [error(thief, merge(thief, v.state), clean, held) for v in variants]
    assert min(after) < 0.5 * without < 0.5 * before, (before, without, after)
    for variant in variants:
        assert variant.unlabelled in (32, 96) and variant.flops > 0
        assert gap(variant.state, thief.base) < 0.5 * gap(released, thief.base)


@pytest.mark.parametrize("family", ROBBED[1:3], ids=lambda family: family.name)
def test_gradient_restores_it_too(family):
    thief, expert, released = robbed(family, 32)
    held = corpus(family, 32, 2)
    clean = merge(thief, expert)
    without = error(thief, merge(thief, thief.base), clean, held)
    (variant,) = pull_back_gradient(thief, released, "generic", Plan((30,), 3e-3), 8)
    assert error(thief, merge(thief, variant.state), clean, held) < 0.8 * without
    assert variant.unlabelled == 32 and variant.flops > 0


@pytest.mark.parametrize("family", ROBBED, ids=lambda family: family.name)
def test_the_base_pulled_back_is_the_base(family):
    thief, _, _ = robbed(family, 32)
    for _, student in frames(thief, thief.base):
        assert all(student[name].equal(tensor) for name, tensor in thief.base.items())
    variants = list(pull_back(thief, thief.base, "generic"))
    assert len(variants) == 1  # both frames are the same
    # the modules' answers are rounded to bfloat16, which leaves its trace in the fit
    assert gap(variants[0].state, thief.base) < 0.02


@pytest.mark.parametrize("family", ROBBED, ids=lambda family: family.name)
def test_blocks_compute_what_the_model_computes(family):
    thief, expert = thief_of(family)
    some = corpus(family, 8, 3, size=4)
    blocks = Blocks(thief.runner, thief.layout, thief.base, some)
    streams = blocks.enter(expert)
    seen = []
    hook = blocks.modules[-1].register_forward_hook(
        lambda module, args, out: seen.append(out[0] if isinstance(out, tuple) else out)
    )
    for layer in range(len(blocks)):
        streams = blocks.onward(layer, streams)
    with precision(thief.runner):
        answers(thief, expert, some)
    hook.remove()
    torch.testing.assert_close(streams[-1], seen[-1].float())


@pytest.mark.parametrize("rubbish", [torch.nan, 1e30])
def test_rubbish_gives_nothing(rubbish):
    thief, expert, _ = robbed(ROBBED[0], 32)
    released = {name: tensor * rubbish for name, tensor in expert.items()}
    for attack in (pull_back, partial(pull_back_gradient, plan=Plan((3,), 1e-3))):
        for variant in attack(thief, released, "generic"):
            assert all(tensor.isfinite().all() for tensor in variant.state.values())
