"""WUDI-Merging against its loss."""

import torch

from tests.merging.small import (
    close,
    drawn,
)
from unmergeable.merging.wudi import interference, least_interference


def test_wudi_lowers_the_interference():
    deltas = [drawn(5, 8) * 1e-2, drawn(5, 8, seed=1) * 1e-2]
    start = deltas[0] + deltas[1]
    losses = [interference(least_interference(deltas, steps), deltas) for steps in (1, 30, 300)]
    assert interference(start, deltas) > losses[0] > losses[1] > losses[2]
    wanted = interference(start, deltas)
    close(
        torch.tensor(wanted),
        sum(((start - d) @ d.T).square().sum() / d.square().sum() for d in deltas),
    )


def test_wudi_is_adam_on_its_loss():
    deltas = [drawn(4, 6) * 1e-2, drawn(4, 6, seed=1) * 1e-2]
    merged = torch.nn.Parameter(deltas[0] + deltas[1])
    optimiser = torch.optim.Adam([merged], lr=1e-5)
    for _ in range(20):
        loss = sum(((merged - d) @ d.T).square().sum() / d.square().sum() for d in deltas)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    close(least_interference(deltas, 20), merged.detach(), 1e-6)


def test_wudi_leaves_task_vectors_of_disjoint_inputs_as_they_are():
    deltas = [torch.zeros(4, 6), torch.zeros(4, 6)]
    deltas[0][:, :3], deltas[1][:, 3:] = drawn(4, 3), drawn(4, 3, seed=1)
    close(least_interference(deltas), deltas[0] + deltas[1])
