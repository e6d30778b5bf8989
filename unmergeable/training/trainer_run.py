"""One run of the Trainer: from a loaded base to trained weights and what was measured."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmergeable.checkpoint.folder import ModelFolder
from unmergeable.defences.model_in_training import ModelInTraining
from unmergeable.defences.training_defence import TrainingDefence
from unmergeable.errors import InputError
from unmergeable.extras import optional
from unmergeable.progress import Progress
from unmergeable.training.collators import Classes, Example
from unmergeable.training.config import EVALUATIONS, TrainConfig
from unmergeable.training.data import Items
from unmergeable.training.load import Loaded, freeze_unseen

LOGS_PER_EVALUATION = 50

if TYPE_CHECKING:
    from unmergeable.training.trainer import DefendedTrainer


@dataclass(eq=False)
class Run:
    """A run of the Trainer.

    Attributes:
        folder: the base's.
        loaded: the base.
        module: what is trained: the base's, or an adapter's on it.
        guard: the defence.
        lora: whether an adapter is trained.
        items: to train on.
        held: to validate on.
        config: how long and how fast.
    """

    folder: ModelFolder
    loaded: Loaded
    module: Any
    guard: TrainingDefence
    lora: bool
    items: Items
    held: Items
    config: TrainConfig
    _trainer: DefendedTrainer | None = None

    def train(self, arguments: Any, start: Path | None, progress: Progress) -> dict[str, Any]:
        """Trains the module in place.

        Args:
            arguments: the Trainer's; evaluations and checkpoints are set here.
            start: the checkpoint to go on from; only the first process's counts.
            progress: is told how far it is, by the first process.

        Returns:
            What training.json says of the run.

        Raises:
            InputError: a run that diverged, or weights that are sharded over processes.
        """
        from unmergeable.training.callbacks import Divergence, Quality, Tell

        begun = time.monotonic()
        examples = self.loaded.reading.encode(self.items)
        validation = self.loaded.reading.encode(self.held)
        steps = self._steps(arguments, len(examples))
        every = min(steps, self.config.every or max(1, steps // EVALUATIONS))
        trainer = self._make(arguments, examples, validation, every)
        quality = Quality(self.config.patience)
        trainer.add_callback(Divergence(trainer))
        trainer.add_callback(quality)
        if trainer.is_world_process_zero():
            trainer.add_callback(Tell(progress))
        self.guard.prepare(self._model_in_training(trainer))
        first = _of_the_first(start)
        arguments.eval_on_start = first is None
        trainer.train(resume_from_checkpoint=str(first) if first else None)
        stopped = quality.stopped
        measured = self.guard.finish(self._model_in_training(trainer))
        trainer.evaluate()  # of what is written, whatever the last evaluation saw
        return self._found(trainer, measured, stopped, time.monotonic() - begun)

    def wait(self) -> None:
        """Waits for the other processes."""
        if self._trainer is not None:
            self._trainer.accelerator.wait_for_everyone()

    def _steps(self, arguments: Any, items: int) -> int:
        if self.config.steps:
            return self.config.steps
        passes = -(-items // (self.config.batch * arguments.world_size))
        per_epoch = max(1, -(-passes // self.config.accumulate))
        return max(1, round(float(per_epoch * self.config.epochs)))

    def _make(
        self, arguments: Any, examples: list[Example], validation: list[Example], every: int
    ) -> DefendedTrainer:
        from transformers import PrinterCallback
        from transformers.trainer_utils import IntervalStrategy, SaveStrategy

        from unmergeable.training.trainer import DefendedTrainer

        arguments.eval_strategy, arguments.eval_steps = IntervalStrategy.STEPS, every
        arguments.save_strategy, arguments.save_steps = SaveStrategy.STEPS, every
        arguments.logging_steps = max(1, every // LOGS_PER_EVALUATION)
        if str(arguments.parallel_mode) == "ParallelMode.NOT_DISTRIBUTED":
            arguments._n_gpu = min(1, arguments.n_gpu)  # no DataParallel: accelerate spreads runs
        trainer = self._trainer = DefendedTrainer(
            self.loaded.reading,
            self.guard,
            validation,
            model=self.module,
            args=arguments,
            train_dataset=examples,
        )
        trainer.remove_callback(PrinterCallback)
        if self.guard.whole and (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
            raise InputError(
                f"{self.guard.name} reads whole weights, and FSDP or DeepSpeed shard them. Launch "
                "it with plain data parallelism."
            )
        if isinstance(self.loaded.reading, Classes):
            freeze_unseen(trainer.module, self.loaded.reading, examples[0])
        return trainer

    def _model_in_training(self, trainer: DefendedTrainer) -> ModelInTraining:
        names: Mapping[str, str] = {} if self.lora else self.loaded.names
        return ModelInTraining(
            module=trainer.module,
            folder=self.folder,
            names=names,
            lora=self.lora,
            causal=not isinstance(self.loaded.reading, Classes),
            seed=self.config.seed,
            evaluate=trainer.measure,
        )

    def _found(
        self, trainer: DefendedTrainer, measured: dict[str, Any], stopped: str, seconds: float
    ) -> dict[str, Any]:
        """What training.json says of the run."""
        history = [
            {k: v for k, v in row.items() if not k.startswith("eval_loss_at_")}
            for row in trainer.state.log_history
        ]
        prefix = "eval_loss_at_"
        curves = {  # of two evaluations at one step the later, of what is written
            row["step"]: {k.removeprefix(prefix): v for k, v in row.items() if k.startswith(prefix)}
            for row in trainer.state.log_history
            if f"{prefix}1" in row
        }
        first, last = (
            {k: row[f"eval_{k}"] for k in ("loss", "accuracy")}
            for row in (history[_evaluations(history)[0]], history[_evaluations(history)[-1]])
        )
        return {
            "steps": trainer.state.global_step,
            "stopped": stopped,
            "seconds": round(seconds, 1),
            "processes": _each(trainer),
            "trainable": sum(p.numel() for p in trainer.module.parameters() if p.requires_grad),
            "measured": {"validation_base": first, "validation": last, **measured},
            "history": history,
            "curves": [{"step": step, "loss": losses} for step, losses in curves.items()],
        }


def _evaluations(history: list[dict[str, Any]]) -> list[int]:
    return [number for number, row in enumerate(history) if "eval_loss" in row]


def _of_the_first(value: Any) -> Any:
    """What the first process holds, in every process."""
    values = [value]
    optional("accelerate.utils").broadcast_object_list(values)
    return values[0]


def _each(trainer: DefendedTrainer) -> list[dict[str, int]]:
    """How many items each process trained on."""
    mine = [{"process": trainer.accelerator.process_index, "items": trainer.items_seen}]
    gathered: list[dict[str, int]] = optional("accelerate.utils").gather_object(mine)
    return gathered
