"""Attacks that train: they learn what they are made to learn, and look at nothing else."""

from dataclasses import replace
from functools import cache, partial

import pytest
import torch

from tests.attacks.robbed import ROBBED, Unreadable, corpus, gap, reordered, tensors, thief_of
from tests.evaluation.living import TASK, WORDS, runner
from unmergeable.architectures.layout import Layout
from unmergeable.attacks.attack import Thief
from unmergeable.attacks.distil import distil
from unmergeable.attacks.fine_tune import tune
from unmergeable.attacks.ladder import CEILINGS, LADDER
from unmergeable.attacks.texts import in_order
from unmergeable.evaluation.scoring import score
from unmergeable.evaluation.task import Item
from unmergeable.merging.method import Corpus
from unmergeable.training.loop import Plan, train

TRAINING = [attack for attack in (*LADDER, *CEILINGS) if attack.stage != "data-free"]
# The same code reads every kind of text, so one kind shows that it works.
ONE_KIND = [
    attack
    for attack in TRAINING
    if attack.texts in ("", "generic") and attack.name != "learnt_coefficients"
]


def named(text):
    return next(WORDS.index(word) for word in text.split() if word in WORDS)


# The thief's own task: the same texts, another question.
OWN = replace(
    TASK,
    name="own",
    template="{text} : is",
    words=("w0", "w1"),
    **{
        split: tuple(Item(text, named(text) % 2) for text, _ in getattr(TASK, split))
        for split in ("train", "test")
    },
)


def items(task, own_host, labelled):
    texts, labels = zip(*task.train, strict=True)
    batches = task.batches(own_host, texts, labels if labelled else None, in_order)
    hidden = [batch if labelled else replace(batch, labels=Unreadable()) for batch in batches]
    return Corpus(replace(task, train=(), test=()), hidden)


@cache
def scene(spaces=("residual",)):
    """A tiny Llama's expert on one task, locked; a thief with an expert on another."""
    runs = runner()
    base = tensors(runs.model)
    config = {**runs.model.config.to_dict(), "architectures": ["LlamaForCausalLM"]}
    layout = Layout.of(config, {name: tuple(t.shape) for name, t in base.items()})
    trained = []
    for task in (TASK, OWN):
        batches = items(task, runs, True).batches

        def losses(step, task=task, batches=batches):
            batch = batches[step % len(batches)]
            yield task.losses(task.logits(runs.model, batch), batch).mean()

        plan = Plan((60,), 4e-3)
        ((_, state),) = train(runs, base, losses, plan.rate_at, plan.stops)
        trained.append(state)
    texts = {"in-domain": items(TASK, runs, False)}
    thief = Thief(base, [trained[1]], layout, runs, texts, [items(OWN, runs, True)])
    return thief, reordered(thief, trained[0], spaces)


def right(thief, state, task=TASK):
    thief.runner.load_state(state)
    return score(thief.runner, task).accuracy


def merged(thief, released):
    """A merge that lost the protected skill."""
    peer = thief.peers[0]
    return {name: 0.3 * tensor + 0.7 * peer[name] for name, tensor in released.items()}


def disturbed(thief, variants):
    """Uses the runner for something else whenever a variant is out, as an audit does."""
    for variant in variants:
        yield variant
        thief.runner.load_state({name: tensor * 0 for name, tensor in thief.base.items()})


def test_the_scene_is_what_it_should_be():
    thief, released = scene()
    assert right(thief, released) > 0.9 and right(thief, thief.peers[0], OWN) > 0.8
    assert right(thief, merged(thief, released)) < 0.8
    assert right(thief, thief.base) < 0.8 and right(thief, thief.peers[0]) < 0.8


@pytest.mark.parametrize("start", ["merge", "peer"])
def test_distilling_brings_the_skill_over_and_keeps_the_own(start):
    thief, released = scene()
    student = merged(thief, released) if start == "merge" else thief.peers[0]
    plan = Plan((15, 45), 4e-3)
    blind = replace(
        thief, labelled=[replace_labels(corpus) for corpus in thief.labelled]
    )  # own labels are not read either
    run = distil(blind, released, student, "in-domain", (96,), plan, (16, 16))
    variants = list(disturbed(thief, run))
    assert [variant.label for variant in variants] == [
        "96 in-domain texts, 15 steps",
        "96 in-domain texts, 45 steps",
    ]
    assert right(thief, variants[-1].state) > 0.85
    assert right(thief, variants[-1].state, OWN) > 0.75
    assert all(variant.labelled == 0 for variant in variants)
    assert 0 < variants[0].unlabelled <= variants[1].unlabelled == 96
    assert 2.5 < variants[1].flops / variants[0].flops < 3.5
    assert [variant.fresh for variant in variants] == [True, False]


def replace_labels(some):
    return replace(some, batches=[replace(b, labels=Unreadable()) for b in some.batches])


def test_fine_tuning_the_release_learns_the_own_task_and_text_slows_forgetting():
    thief, released = scene()
    assert right(thief, released, OWN) < 0.75
    plan = Plan((15, 45), 4e-3)
    (_, free) = disturbed(thief, tune(thief, released, released, plan))
    assert right(thief, free.state, OWN) > 0.8
    assert free.labelled == 96 and free.unlabelled == 0
    (_, near) = disturbed(thief, tune(thief, released, released, plan, "in-domain"))
    assert right(thief, near.state, OWN) > 0.8 and near.unlabelled == 96
    assert right(thief, near.state) > max(0.85, right(thief, free.state) - 0.02)


def test_the_same_seed_gives_the_same_weights():
    thief, released = scene()
    runs = [
        next(distil(thief, released, released, "in-domain", (96,), Plan((4,), 1e-3)))
        for _ in range(2)
    ]
    assert gap(runs[0].state, runs[1].state) == 0


def test_distilling_into_a_merge_may_start_from_a_pull_back_and_a_ceiling_never():
    """Where the release's own neurons add nothing to a merge, what they compute does."""
    thief, released = scene(("ffn",))
    thief = replace(thief, judge=lambda state: min(right(thief, state), right(thief, state, OWN)))
    # what a search without the release's FFN would leave
    start = dict(thief.peers[0])
    plan = Plan((1, 10), 1e-3)
    run = partial(distil, thief, released, start, "in-domain", (96,), plan, (16, 16))
    first, last = run()
    assert first.label.endswith("from all task vectors, after a pull-back")
    assert first.unlabelled == 96 and first.fresh and not last.fresh
    _, plain = run(merged=False)
    assert "from" not in plain.label and plain.flops < last.flops
    assert right(thief, last.state) > right(thief, plain.state) + 0.1
    _, blind = distil(thief, thief.base, start, "in-domain", (96,), plan, (16, 16))
    assert right(thief, blind.state) + 0.1 < right(thief, last.state)
    ceiling = next(a for a in CEILINGS if a.name == "distil_release_in_domain")
    assert "from" not in next(ceiling.instead(thief, released)).label
    again = next(distil(thief, released, last.state, "in-domain", (96,), plan, (16, 16)))
    assert "from" not in again.label and again.unlabelled < 96


def test_a_run_that_diverges_ends():
    thief, released = scene()
    assert list(tune(thief, released, released, Plan((5, 10), 1e20))) == []


def whole_thief(family):
    thief, expert = thief_of(family)
    texts = {"generic": corpus(family, 8, 1)}
    return replace(thief, texts=texts, labelled=[corpus(family, 8, 9, labels=1)]), expert


def run(attack, thief, released):
    if attack.before:
        return attack.before(thief, released)
    if attack.instead:
        return attack.instead(thief, released)
    return attack.after(thief, released, merged(thief, released))


def first(variants, count=1):
    return [variant for variant, _ in zip(variants, range(count), strict=False)]


@pytest.mark.parametrize("attack", ONE_KIND, ids=lambda attack: attack.name)
def test_every_attack_runs_without_labels_that_it_has_not(attack):
    thief, expert = whole_thief(ROBBED[0])
    if not attack.labels:
        thief = replace(thief, labelled=[replace_labels(thief.labelled[0])])
    before = {name: tensor.clone() for name, tensor in expert.items()}
    for variant in first(run(attack, thief, expert)):
        assert list(variant.state) == list(expert)
        assert all(tensor.isfinite().all() for tensor in variant.state.values())
        assert (variant.labelled > 0) == attack.labels
        assert (variant.unlabelled > 0) == bool(attack.texts)
        assert variant.flops > 0 and gap(variant.state, expert) > 0
    assert all(tensor.equal(before[name]) for name, tensor in expert.items())


@pytest.mark.parametrize("attack", TRAINING, ids=lambda attack: attack.name)
def test_without_its_data_an_attack_does_nothing(attack):
    thief, expert = thief_of(ROBBED[0])
    assert list(run(attack, thief, expert)) == []


@pytest.mark.parametrize("attack", ONE_KIND, ids=lambda attack: attack.name)
def test_rubbish_neither_crashes_nor_comes_back(attack):
    thief, expert = whole_thief(ROBBED[0])
    released = {name: tensor * torch.nan for name, tensor in expert.items()}
    assert list(run(attack, thief, released)) == []


QUICK = Plan((2,), 1e-4)


@pytest.mark.parametrize("family", ROBBED, ids=lambda family: family.name)
@pytest.mark.parametrize(
    "attack",
    [
        partial(distil, kind="generic", counts=(8,), plan=QUICK),
        partial(tune, plan=QUICK, kind="generic"),
    ],
    ids=["distil", "tune"],
)
def test_every_family_trains(attack, family):
    thief, expert = whole_thief(family)
    (variant,) = attack(thief, expert, expert)
    assert 0 < gap(variant.state, expert) < 0.1
    assert list(variant.state) == list(expert)
