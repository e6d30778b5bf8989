"""Callbacks that watch a run: divergence, quality at s = 1, and what people see of it."""

from __future__ import annotations

import math
import time
from typing import Any

from transformers import TrainerCallback

from unmergeable.errors import InputError
from unmergeable.progress import Progress, Status
from unmergeable.training.trainer import DefendedTrainer

# A start this good may still double by the chance of a batch, so the bound has a floor.
FACTOR, FLOOR = 2.0, 3.0
_MEMORY = 0.8


class Divergence(TrainerCallback):  # type: ignore[misc]
    """Ends a run whose task loss is not finite, or far above what it was at the start.

    The start is the first step's loss, which is measured before any weight has moved; what is
    compared with it is a moving average, and the bound the larger of twice the start and 3 nats
    above it. It raises before the step's checkpoint is written. A step can also ruin the weights
    just before a checkpoint, and its own loss does not show that: so a checkpoint whose validation
    loss is beyond the same bound, from where validation started, is not written either.

    Raises:
        InputError: says the step, the loss and the last checkpoint.
    """

    def __init__(self, trainer: DefendedTrainer) -> None:
        self._trainer = trainer
        self._start = self._mean = math.nan

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Takes over the start of a run that is resumed."""
        earlier = (row["task_loss"] for row in state.log_history if "task_loss" in row)
        self._start = next(earlier, math.nan)

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Reads the step's losses; every process sees the same."""
        task, extra = self._trainer.step_losses()
        if math.isnan(self._start):
            self._start = task
        self._mean = task if math.isnan(self._mean) else _MEMORY * self._mean + 0.2 * task
        if math.isfinite(task) and math.isfinite(extra) and self._mean <= _bound(self._start):
            return
        from unmergeable.training.checkpoints import last_checkpoint

        kept = last_checkpoint(args.output_dir)
        raise InputError(
            f"training diverged: at step {state.global_step} the task's loss is {task:.4g} and the "
            f"defence's {extra:.4g} (at the start: {self._start:.4g}). "
            + (f"The last good checkpoint is {kept}. " if kept else "No checkpoint was written. ")
            + "Lower --rate or the defence's strength."
        )

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float], **others: Any
    ) -> None:
        """Keeps bad weights from becoming a checkpoint, or from pushing a good one out."""
        start = next(row["eval_loss"] for row in state.log_history if "eval_loss" in row)
        if not metrics["eval_loss"] <= _bound(start):
            control.should_save = False


def _bound(start: float) -> float:
    return max(FACTOR * start, start + FLOOR)


class Quality(TrainerCallback):  # type: ignore[misc]
    """Ends a run when the validation loss at s = 1 stays above its best.

    Then the weights of the best evaluation are taken; without such an end, the last.

    Args:
        patience: evaluations in a row that may be worse than the best; 0 for no such end.
    """

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self.stopped = ""

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float], **others: Any
    ) -> None:
        """Counts back through the history, which a resumed run has too."""
        losses = [(e["step"], e["eval_loss"]) for e in state.log_history if "eval_loss" in e]
        losses = losses[1:]  # the first is the base's own, of which there is no checkpoint
        if not losses:
            return
        best = min(range(len(losses)), key=lambda n: (_worst(losses[n][1]), n))
        if self._patience and len(losses) - 1 - best >= self._patience:
            step, loss = losses[best]
            self.stopped = (
                f"stopped at step {state.global_step}: the validation loss at s = 1 was above its "
                f"best, {loss:.4g} at step {step}, {self._patience} evaluations in a row"
            )
            control.should_training_stop = True
            args.load_best_model_at_end = True


class Tell(TrainerCallback):  # type: ignore[misc]
    """Tells how far a run is, and how good the model was when it was last measured.

    Args:
        progress: who is told.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress, self._what = progress, "training"
        self._start, self._begun = 0, time.perf_counter()

    def on_train_begin(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Where the run stands, which may be resumed."""
        self._start, self._begun = state.global_step, time.perf_counter()
        self._tell(state)

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """One more step."""
        self._tell(state)

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float], **others: Any
    ) -> None:
        """How good the model is."""
        loss, right = metrics["eval_loss"], metrics["eval_accuracy"]
        self._what = f"validation loss {loss:.4g}, right {right:.1%}"
        self._tell(state)

    def _tell(self, state: Any) -> None:
        done = state.global_step - self._start
        spent = time.perf_counter() - self._begun
        left = spent / done * (state.max_steps - state.global_step) if done else None
        self._progress(Status(self._what, state.global_step, state.max_steps, "steps", left))


def _worst(loss: float) -> float:
    return loss if math.isfinite(loss) else math.inf
