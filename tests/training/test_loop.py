import pytest
import torch

from tests.attacks.robbed import gap, tensors
from tests.evaluation.living import TASK, runner
from unmergeable.training.loop import Plan, train


@pytest.fixture(scope="module")
def batches():
    texts, labels = zip(*TASK.train, strict=True)
    return TASK.batches(runner(), texts, labels)


def run(runs, state, batches, stops, between=lambda: None, **options):
    def losses(step):
        batch = batches[step % len(batches)]
        yield TASK.losses(TASK.logits(runs.model, batch), batch).mean()

    found = []
    for snapshot in train(runs, state, losses, lambda step: 1e-3, stops, **options):
        found.append(snapshot)
        between()
    return found


def test_snapshots_are_those_of_shorter_runs_whatever_the_host_did_between(batches):
    runs = runner()
    state = tensors(runs.model)
    whole = run(runs, state, batches, (3, 6))
    zeros = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    torn = run(runs, state, batches, (3, 6), lambda: runs.load_state(zeros))
    ((_, short),) = run(runs, state, batches, (3,))
    assert [done for done, _ in whole] == [3, 6]
    assert gap(whole[0][1], short) == gap(whole[1][1], torn[1][1]) == 0
    assert gap(whole[0][1], state) > 0 and gap(whole[1][1], whole[0][1]) > 0


def test_only_what_is_named_is_trained(batches):
    runs = runner()
    state = tensors(runs.model)
    name = "model.layers.0.mlp.up_proj.weight"
    ((_, after),) = run(runs, state, batches, (2,), only=[name])
    assert not after[name].equal(state[name])
    assert all(after[other] is state[other] for other in state if other != name)


def test_tied_tensors_that_are_there_twice_stay_tied(batches):
    runs = runner()
    state = tensors(runs.model)
    state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    ((_, after),) = run(runs, state, batches, (2,))
    assert after["lm_head.weight"].equal(after["model.embed_tokens.weight"])
    assert not after["lm_head.weight"].equal(state["lm_head.weight"])


def test_a_loss_that_is_not_finite_ends_the_run(batches):
    runs = runner()
    state = tensors(runs.model)

    def losses(step):
        yield sum(p.sum() for p in runs.model.parameters()) * (torch.nan if step == 3 else 1)

    steps = [done for done, _ in train(runs, state, losses, lambda step: 1e-3, (2, 4, 6))]
    assert steps == [2]


def test_the_rate_rises_once_and_falls_before_each_stop():
    plan = Plan((20, 40, 100), 1.0)
    rates = [plan.rate_at(step) for step in range(100)]
    assert max(rates) == 1.0 and rates[0] == 0.25
    assert rates[19] < 0.15 and rates[39] < 0.15 and rates[99] < 0.05
    assert rates[20] == rates[50] == 1.0
    assert Plan((1,), 1.0).rate_at(0) > 0
