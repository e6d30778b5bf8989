"""The one training loop: experts, attacks and defences give it a loss and get snapshots back.

Memory, in copies of what is trained: the weights in training, their gradients and AdamW's two
moments make four. Snapshots lie in files, and take memory while they are looked at alone.
"""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from unmergeable.evaluation.scoring import precision
from unmergeable.models.model_runner import ModelRunner
from unmergeable.models.offloaded_state import OffloadedState

if TYPE_CHECKING:
    import torch

State = Mapping[str, "torch.Tensor"]
Optimiser = Literal["AdamW", "SGD"]
MOMENTUM = 0.9  # of SGD


@dataclass(frozen=True)
class Plan:
    """When a run hands out snapshots, and how fast it learns until then.

    The rate warms up once, and falls to zero before each stop, where it takes up again: so each
    snapshot is as good as a run of that length, nearly, and one run gives them all.

    Attributes:
        stops: steps after which there is a snapshot; the last ends the run.
        rate: highest learning rate.
        warm: share of the steps to the first stop in which the rate rises.
        fall: share of the steps between two stops in which it falls.
        optimiser: what takes the steps.
    """

    stops: tuple[int, ...]
    rate: float
    warm: float = 0.2
    fall: float = 0.4
    optimiser: Optimiser = "AdamW"

    def rate_at(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        rise = max(1.0, self.warm * self.stops[0])
        last = 0
        for stop in self.stops:
            if step < stop:
                falling = max(1.0, self.fall * (stop - last))
                return self.rate * min(1.0, (step + 1) / rise, (stop - step) / (falling + 1))
            last = stop
        return 0.0


def train(
    runner: ModelRunner,
    state: State,
    losses: Callable[[int], Iterable[torch.Tensor]],
    rate_at: Callable[[int], float],
    stops: Sequence[int],
    *,
    only: Collection[str] | None = None,
    decay: float = 0.0,
    clip: float = 1.0,
    optimiser: Optimiser = "AdamW",
) -> Iterator[tuple[int, State]]:
    """Trains a copy of some weights in a runner, and yields it at each stop.

    Between two snapshots the runner holds the weights in training; while a snapshot is out it may
    be used for anything, for they are loaded again. Weights and optimiser are float32; the forward
    pass is in the precision of scoring. A run whose loss or gradient is not finite ends there: no
    snapshot holds what followed.

    Args:
        runner: what runs the weights.
        state: what to start from; not changed.
        losses: from a step, counted from 0, to the parts of its loss, one at a time: the gradients
            add up, and only one part's activations are in memory. Asked while the runner holds the
            weights.
        rate_at: learning rate of a step.
        stops: steps after which to yield; the last ends the run.
        only: names of the tensors to train; by default all that the loss reaches.
        decay: weight decay.
        clip: largest norm of a step's gradient.
        optimiser: AdamW, or SGD with momentum, which takes one copy less.

    Yields:
        How many steps were taken, and the weights by the names of `state`: new tensors for those
        that were trained.
    """
    import torch

    own = _own(runner, state, only)
    chosen = list({id(parameter): parameter for parameter in own.values()}.values())
    stepping: torch.optim.Optimizer
    if optimiser == "AdamW":
        stepping = torch.optim.AdamW(chosen, lr=0.0, weight_decay=decay, fused=True)
    else:
        stepping = torch.optim.SGD(chosen, lr=0.0, weight_decay=decay, momentum=MOMENTUM)
    done = 0
    for stop in stops:
        _hold(runner, state, own)
        while done < stop:
            for group in stepping.param_groups:
                group["lr"] = rate_at(done)
            total = 0.0
            with precision(runner):
                parts = iter(losses(done))
            while True:
                with precision(runner):
                    part = next(parts, None)
                if part is None:
                    break
                total += float(part.detach())
                part.backward()
            norm = float(torch.nn.utils.clip_grad_norm_(chosen, clip))
            if not (math.isfinite(total) and math.isfinite(norm)):
                return
            stepping.step()
            stepping.zero_grad(set_to_none=True)
            done += 1
        trained: Any = OffloadedState((name, own[name]) for name in state if name in own)
        yield done, ChainMap(trained, state)  # type: ignore[arg-type]


def _own(
    runner: ModelRunner, state: State, only: Collection[str] | None
) -> dict[str, torch.nn.Parameter]:
    """The weights in training, by their names in the state.

    Tied tensors that a state holds twice are one parameter, as they are in the model.
    """
    import torch

    runner.load_state(state)
    names = runner.folder_names()
    own, made = {}, {}
    for key, used in runner.model.named_parameters(remove_duplicate=False):
        name = names.get(key)
        if name is None or not (only is None or name in only):
            continue
        if id(used) not in made:
            made[id(used)] = torch.nn.Parameter(used.detach().clone())
        own[name] = made[id(used)]
    return own


def _hold(runner: ModelRunner, state: State, own: dict[str, torch.nn.Parameter]) -> None:
    """Pours the weights in training in, among the others."""
    runner.load_state({**state, **own})
    for parameter in own.values():
        parameter.requires_grad_()
