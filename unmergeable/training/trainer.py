"""transformers' Trainer with a defence: one loss of two parts, one backward pass.

Everything else is the Trainer's: checkpoints, resuming, gradient accumulation, mixed precision, and
the processes that `accelerate launch` starts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any

import torch
import transformers

from unmergeable.training.collators import Call, Example, Reading
from unmergeable.training.defence import Defence, Pass


class DefendedTrainer(transformers.Trainer):  # type: ignore[misc, name-defined]
    """A Trainer whose loss is the task's and a defence's.

    Args:
        reading: how items become batches, and answers a loss.
        defence: prepared by the caller, before `train`.
        validation: encoded items.
        options: of the Trainer.
    """

    def __init__(
        self, reading: Reading, defence: Defence, validation: Sequence[Example], **options: Any
    ) -> None:
        super().__init__(data_collator=reading.collate, eval_dataset=list(validation), **options)
        self.reading, self.defence = reading, defence
        # Losses here are sums over the whole step's count already: see `get_batch_samples`.
        self.model_accepts_loss_kwargs = True
        self.items_seen = 0
        self._parts = torch.zeros(2, dtype=torch.float64)
        self._since_log: list[tuple[float, float]] = []

    @property
    def module(self) -> torch.nn.Module:
        """What is trained, not wrapped."""
        return self.accelerator.unwrap_model(self.model)  # type: ignore[no-any-return]

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor]:
        """The batches of one optimiser step, and how many answers all processes' batches ask for.

        Dividing by this count makes a step's loss a mean over its answers, however they are spread
        over passes and processes.
        """
        batches = list(islice(epoch_iterator, num_batches))
        count = torch.tensor(sum(self.reading.count(b) for b in batches), device=device)
        return batches, self.accelerator.reduce(count, "sum")

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """The task's loss and the defence's, of one pass."""
        count = self.reading.count(inputs)
        # Gradients are averaged over processes, and must add up.
        scale = self.accelerator.num_processes / max(1, int(num_items_in_batch or count))
        before = _random_state(self.args.device)
        nominal: torch.Tensor = self.reading.loss(model, inputs) * scale

        def again(weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
            _random_state(self.args.device, before)
            loss: torch.Tensor = self.reading.loss(_calling(self.module, weights), inputs) * scale
            return loss

        one = Pass(self.state.global_step, count * scale, nominal, again)
        extra = self.defence.extra_loss(one)
        self.items_seen += len(inputs["labels"])
        self._parts[0] += float(nominal.detach())
        if extra is None:
            return nominal
        self._parts[1] += float(extra.detach())
        total: torch.Tensor = nominal + extra
        return total

    def step_losses(self) -> tuple[float, float]:
        """The task's and the defence's loss of the step just done, over all processes; once."""
        # float64 does not travel on every accelerator.
        parts = self._parts.to(self.args.device, torch.float32)
        self._parts.zero_()
        task, extra = self.accelerator.reduce(parts, "mean").tolist()
        self._since_log.append((task, extra))
        return task, extra

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the two parts of the loss, as means since the last log."""
        if "loss" in logs and self._since_log:
            columns = zip(*self._since_log, strict=True)
            logs["task_loss"], logs["extra_loss"] = (sum(c) / len(c) for c in columns)
            self._since_log.clear()
        super().log(logs, start_time)

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Measures the validation items at s = 1, and along the defence's curve."""
        nominal = self.measure()
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in nominal.items()}
        for s in self.defence.curve:
            point = nominal if s == 1 else self.measure(self.defence.weights_at(s))
            metrics[f"{metric_key_prefix}_loss_at_{s:g}"] = point["loss"]
        self.log(dict(metrics))
        self.control: Any = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def measure(self, weights: Mapping[str, torch.Tensor] | None = None) -> dict[str, float]:
        """Mean loss in nats and share of right answers on the validation items.

        Each process measures its share of the items, none twice.

        Args:
            weights: other weights by parameter name; by default those in training.
        """
        module, was_training = self.module, self.module.training
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        mine = self.eval_dataset[rank::world]
        size = self.args.per_device_eval_batch_size
        sums = torch.zeros(3, dtype=torch.float64)
        call = _calling(module, weights) if weights else module
        module.eval()
        precision: AbstractContextManager[Any] = self.compute_loss_context_manager()
        with precision:
            for start in range(0, len(mine), size):
                batch = self._prepare_inputs(self.reading.collate(mine[start : start + size]))
                said = self.reading.answers(call, batch)
                loss = torch.nn.functional.cross_entropy(said.logits, said.labels, reduction="sum")
                right = (said.logits.argmax(1) == said.labels).sum()
                sums += torch.stack(
                    [loss.double(), right.double(), right.new_tensor(len(said.labels)).double()]
                ).cpu()
        module.train(was_training)
        total = sums.to(self.args.device, torch.float32)
        loss_sum, rights, count = self.accelerator.reduce(total, "sum").tolist()
        return {"loss": loss_sum / max(1.0, count), "accuracy": rights / max(1.0, count)}


def _calling(module: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> Call:
    """The module's forward pass with other weights."""
    return lambda **inputs: torch.func.functional_call(module, dict(weights), (), inputs)


def _random_state(
    device: torch.device, restore: tuple[torch.Tensor, ...] | None = None
) -> tuple[torch.Tensor, ...]:
    """The state of the CPU's and the device's random numbers, after restoring one if given."""
    places: list[Any] = [torch.random]
    if device.type != "cpu":
        places.append(torch.get_device_module(device))
    if restore is not None:
        for place, state in zip(places, restore, strict=True):
            place.set_rng_state(state)
    return tuple(place.get_rng_state() for place in places)
