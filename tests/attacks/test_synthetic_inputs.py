"""Attacks on inputs that cost nothing, learnt coefficients, and the sweep that chooses settings."""

from dataclasses import replace
from functools import cache, partial

import pytest
import torch

from tests.attacks.robbed import ROBBED, Unreadable, answers, gap, reordered, thief_of
from tests.attacks.robbed import merge as mean
from tests.attacks.test_training_attacks import OWN, TASK, items, merged, right, scene
from unmergeable.attacks.coefficients import GRAINS, LEARNT, learnt
from unmergeable.attacks.distil import added, distil, starts
from unmergeable.attacks.ladder import LADDER
from unmergeable.attacks.parts import norm_vectors
from unmergeable.attacks.pull_back import pull_back
from unmergeable.attacks.sweep import GRID, best, named, points
from unmergeable.attacks.synthetic_inputs import (
    RANDOM,
    SPOKEN,
    SYNTHETIC,
    WILD,
    WRITTEN,
    suits,
    synthetic_inputs,
)
from unmergeable.merging.method import Corpus
from unmergeable.training.loop import Plan, train

WRITERS = {"llama", "llama-tied", "gpt2"}


def by_name(name):
    return next(attack for attack in LADDER if attack.name == name)


def said(thief, state, kind=RANDOM):
    """What a model says to synthetic inputs of another seed."""
    other = replace(thief, seed=99)
    return answers(thief, state, synthetic_inputs(other, thief.base, kind, 32))


@pytest.mark.parametrize("kind", SYNTHETIC)
@pytest.mark.parametrize("family", ROBBED, ids=lambda family: family.name)
def test_inputs_are_synthetic_for_every_kind_of_model_that_takes_them(family, kind):
    thief, expert = thief_of(family)
    why = suits(kind)(thief)
    assert bool(why) == (kind == WRITTEN and family.name not in WRITERS), why
    if why:
        return
    one, two = (synthetic_inputs(thief, expert, kind, 12) for _ in range(2))
    assert [len(batch.items) for batch in one.batches] == [8, 4]
    assert all(batch.labels is None for batch in one.batches)
    for a, b in zip(one.batches, two.batches, strict=True):
        assert all(a.inputs[name].equal(b.inputs[name]) for name in a.inputs)
    other = synthetic_inputs(replace(thief, seed=1), expert, kind, 12)
    assert any(
        not a.inputs[name].equal(b.inputs[name])
        for a, b in zip(one.batches, other.batches, strict=True)
        for name in a.inputs
    )
    thief.runner.load_state(expert)
    with torch.no_grad():
        assert SPOKEN.logits(thief.runner.model, one.batches[0]).isfinite().all()


def test_a_release_writes_what_it_was_trained_to_write():
    thief, _ = scene()
    loud = {name: t * (0 if "layers" in name else 1) for name, t in thief.base.items()}
    words = loud["model.embed_tokens.weight"]  # the output's, too
    loud["model.norm.weight"] = torch.ones_like(loud["model.norm.weight"])
    wanted = torch.randn(words.shape[1], generator=torch.Generator().manual_seed(3))
    loud["model.embed_tokens.weight"] = wanted.repeat(len(words), 1)
    loud["model.embed_tokens.weight"][7] *= 5
    found = synthetic_inputs(thief, loud, WRITTEN, 8).batches[0].inputs["input_ids"]
    assert (found[:, 1:] == 7).all()


def test_words_with_wild_embeddings_are_not_drawn():
    thief, expert = thief_of(ROBBED[0])
    name = "model.embed_tokens.weight"
    wild = expert[name].clone()
    wild[::3] *= 100 * WILD
    wild[1] = torch.inf
    found = synthetic_inputs(thief, {**expert, name: wild}, RANDOM, 64)
    drawn = torch.cat([batch.inputs["input_ids"].flatten() for batch in found.batches])
    assert set(drawn.tolist()) <= {n for n in range(2, len(wild)) if n % 3}


def test_what_cannot_be_called_alone_is_not_applicable():
    thief, _ = thief_of(ROBBED[0])

    class Pair:
        config = type("Config", (), {"is_encoder_decoder": True})()
        main_input_name = "input_ids"

    pair = replace(thief, runner=type("Runs", (), {"model": Pair(), "pour": lambda *_: None})())
    for kind in SYNTHETIC:
        assert suits(kind)(pair)


@cache
def judged():
    """The scene of the attacks that train, with a judge and few labelled items; no text."""
    thief, released = scene()

    def judge(state):
        return min(right(thief, state), right(thief, state, OWN))

    few = [items(task, thief.runner, True) for task in (TASK, OWN)]
    few = [Corpus(corpus.task, corpus.batches[:8]) for corpus in few]
    return replace(thief, texts={}, labelled=(), validation=few, judge=judge), released


QUICK = Plan((10, 80), 2e-3)  # 40 are enough by some processors' bfloat16, not by all


@pytest.mark.parametrize("kind", SYNTHETIC)
def test_synthetic_inputs_bring_the_skill_over_and_nothing_comes_without_the_release(kind):
    thief, released = judged()
    start = merged(thief, released)
    blind = replace(
        thief,
        validation=[
            Corpus(c.task, [replace(batch, labels=Unreadable()) for batch in c.batches])
            for c in thief.validation
        ],
        judge=None,
    )
    run = partial(distil, blind, start=start, kind=kind, plan=QUICK, sizes=(8, 8))
    *_, last = run(released=released)
    assert last.unlabelled == last.labelled == 0 and last.flops > 0
    wanted = said(thief, released)

    def far(state):
        return float((said(thief, state) - wanted).norm())

    assert far(last.state) < 0.7 * far(start)
    assert right(thief, last.state, OWN) > 0.8
    *_, without = run(released=thief.base)
    assert far(last.state) < 0.95 * far(without.state)
    assert right(thief, without.state) + 0.1 < right(thief, last.state) > right(thief, start) + 0.1


def test_a_sweep_names_what_won_and_its_time_is_told_apart():
    thief, released = judged()
    first, *_ = distil(
        thief, released, merged(thief, released), RANDOM, plan=Plan((3, 6), 2e-3), sizes=(8, 8)
    )
    assert "3 steps" in first.label and " from " in first.label
    assert any(named(point) in first.label for point in points(Plan((3,), 2e-3)))
    assert first.sweep_seconds > 0 and first.fresh
    again, *_ = distil(
        thief, released, merged(thief, released), RANDOM, plan=Plan((3, 6), 2e-3), sizes=(8, 8)
    )
    assert again.label == first.label and gap(again.state, first.state) == 0


def test_starts_are_the_merge_the_sum_and_a_sum_with_one_part_at_base():
    thief, released = judged()
    found = [one.label for one in starts(thief, released, merged(thief, released), RANDOM, 8)]
    assert len(found) == 3 and found[0] == "the best merge"
    peer = thief.peers[0]
    whole = added(thief, released)
    assert all(
        torch.allclose(whole[n], released[n] + peer[n] - t, atol=1e-5)
        for n, t in thief.base.items()
    )
    cut = added(thief, released, "FFN")
    at_base = [n for n in whole if torch.allclose(cut[n], peer[n], atol=1e-6)]
    assert any("mlp" in name for name in at_base) and not any("attn" in n for n in at_base)
    assert len(list(starts(replace(thief, judge=None), released, whole, RANDOM, 8))) == 1


def test_the_best_option_wins_and_without_a_judge_the_first():
    thief, _ = judged()
    told = {1: 0.2, 2: 0.9, 3: 0.9, 4: None}

    def make(option):
        return None if told[option] is None else {"worth": told[option]}

    asked = replace(thief, judge=lambda state: state["worth"])
    assert best(asked, [4, 1, 2, 3], make).option == 2  # of equals, the first
    assert best(replace(thief, judge=None), [1, 2], make).option == 1
    plan = Plan((5, 9), 1e-4)
    assert len({(p.optimiser, p.rate) for p in points(plan)}) == len(GRID)
    assert points(plan)[0] == plan


def test_sgd_learns_too():
    thief, _ = scene()
    corpus = items(TASK, thief.runner, True)

    def losses(step):
        batch = corpus.batches[step % len(corpus.batches)]
        yield TASK.losses(TASK.logits(thief.runner.model, batch), batch).mean()

    plan = Plan((60,), 0.1, optimiser="SGD")
    runs = [
        next(train(thief.runner, thief.base, losses, plan.rate_at, plan.stops, optimiser=name))
        for name in ("SGD", "SGD", "AdamW")
    ]
    states = [state for _, state in runs]
    assert gap(states[0], states[1]) == 0 < gap(states[2], states[0])
    assert right(thief, states[0]) > right(thief, thief.base) + 0.1


def poisoned(thief, released):
    """The release with one block that ruins every merge at ordinary coefficients."""
    random = torch.Generator().manual_seed(4)
    return {
        name: t
        + (10 * t.std() * torch.randn(t.shape, generator=random) if "layers.0" in name else 0)
        for name, t in released.items()
    }


@pytest.mark.parametrize("kind", GRAINS)
def test_learnt_coefficients_leave_out_what_ruins_a_merge(kind):
    thief, _ = judged()
    expert = thief.peers[0]  # two tasks, one expert: what is learnt is how to lose the poison
    ruined = poisoned(thief, expert)
    two = replace(
        thief, validation=[thief.validation[1]] * 2, judge=lambda state: right(thief, state, OWN)
    )
    plain = {n: t + 0.7 * (ruined[n] - t) + 0.7 * (expert[n] - t) for n, t in thief.base.items()}
    (found,) = learnt(replace(two, peers=[expert]), ruined, (kind,))
    assert right(thief, found.state, OWN) > right(thief, plain, OWN) + 0.1
    assert found.labelled == 2 * sum(len(b.items) for b in thief.validation[1].batches)
    assert found.unlabelled == 0 and found.flops > 0 and GRAINS[kind] in found.label


def test_without_the_release_learnt_coefficients_bring_no_skill():
    thief, released = judged()
    (found,) = LEARNT.alone(thief, released, released)
    assert right(thief, found.state) < right(thief, released) - 0.1
    assert all(
        torch.equal(a, b)
        for a, b in zip(
            next(LEARNT.alone(thief, thief.base, released)).state.values(),
            found.state.values(),
            strict=True,
        )
    )
    assert list(LEARNT.after(replace(thief, validation=()), released, released)) == []


@pytest.mark.parametrize("kind", SYNTHETIC)
def test_pull_back_on_synthetic_inputs_restores_the_merge_of_a_regrown_ffn(kind):
    family = ROBBED[0]
    thief, expert = thief_of(family)
    released = reordered(thief, expert)
    clean = said(thief, mean(thief, expert))

    def error(state):
        return float((said(thief, state) - clean).norm() / clean.norm())

    found = list(pull_back(thief, released, kind))
    assert len(found) == 3 and all(variant.unlabelled == 0 for variant in found)
    after = min(error(mean(thief, variant.state)) for variant in found)
    assert after < 0.6 * error(mean(thief, thief.base)) < error(mean(thief, released))
    nothing = list(pull_back(thief, thief.base, kind))
    assert min(gap(v.state, thief.base) for v in nothing) < 0.02


NEW = [f"{how}_{kind}" for how in ("pull_back", "distil_merge") for kind in SYNTHETIC]


@pytest.mark.parametrize("name", [*NEW, "learnt_coefficients"])
@pytest.mark.parametrize("rubbish", [torch.nan, 1e30])
def test_rubbish_neither_crashes_nor_comes_back(name, rubbish):
    thief, released = judged()
    bad = {key: tensor * rubbish for key, tensor in released.items()}
    attack, plain = by_name(name), replace(thief, judge=None)
    made = attack.before(plain, bad) if attack.before else attack.after(plain, bad, bad)
    for variant in made:
        assert all(tensor.isfinite().all() for tensor in variant.state.values())


@pytest.mark.parametrize("family", ROBBED, ids=lambda family: family.name)
def test_norms_are_told_from_biases(family):
    thief, _ = thief_of(family)
    found = norm_vectors(thief.layout)
    for name in found:
        assert any(word in name.lower() for word in ("norm", "ln_")) or "lambda" in name
    assert any(name.endswith("weight") for name in found)
    assert not any("proj" in name or "dense.bias" in name for name in found)
