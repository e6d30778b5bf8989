"""What turns an encoder's hidden states into answers: a linear head of the task, or the model's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unmergeable.errors import InputError
from unmergeable.evaluation.store import file_hash
from unmergeable.models.device import placed

if TYPE_CHECKING:
    import torch

Pooling = Literal["mean", "cls"]


@dataclass(frozen=True)
class Head:
    """A linear head on pooled hidden states. It belongs to the task and is never merged.

    Attributes:
        path: a safetensors file with `weight`, shape (classes, width), and perhaps `bias`.
        pooling: "mean" over the positions that are not padding, or "cls" for the first one.
    """

    path: Path
    pooling: Pooling = "mean"

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of the file, with the pooling."""
        return f"{file_hash(self.path)} {self.pooling}"

    @cached_property
    def tensors(self) -> Mapping[str, torch.Tensor]:
        """The head's weight and bias, float32.

        Raises:
            InputError: not such a file.
        """
        from safetensors.torch import load_file

        try:
            found = load_file(self.path)
        except Exception as error:
            raise InputError(f"{self.path} is not a safetensors file: {error}") from None
        if "weight" not in found or found["weight"].ndim != 2:
            raise InputError(f"{self.path} holds {sorted(found)}: a head needs a 2-D 'weight'.")
        return {name: tensor.float() for name, tensor in found.items()}

    @property
    def classes(self) -> int:
        """How many answers there are."""
        return len(self.tensors["weight"])

    def __call__(self, pooled: torch.Tensor) -> torch.Tensor:
        """Answers from pooled hidden states: (items, width) to float32 (items, classes)."""
        import torch

        weight, bias = self.tensors["weight"].to(pooled), self.tensors.get("bias")
        if weight.shape[1] != pooled.shape[1]:
            raise InputError(
                f"{self.path} has a head for width {weight.shape[1]}, and the model's hidden "
                f"states are {pooled.shape[1]} wide."
            )
        with torch.autocast(pooled.device.type, enabled=False):
            return torch.nn.functional.linear(
                pooled, weight, None if bias is None else bias.to(pooled)
            )


def pool(hidden: torch.Tensor, mask: torch.Tensor | None, pooling: Pooling) -> torch.Tensor:
    """One vector per item: (items, positions, width) to float32 (items, width).

    Args:
        hidden: a trunk's last hidden states.
        mask: 1 where a position is no padding, shape (items, positions); None if there is none.
        pooling: see [`Head`][unmergeable.evaluation.heads.Head].
    """
    hidden = hidden.float()
    if pooling == "cls":
        return hidden[:, 0]
    if mask is None:
        return hidden.mean(1)
    weights = mask.to(hidden)[:, :, None]
    return (hidden * weights).sum(1) / weights.sum(1)


def pooled(
    model: torch.nn.Module, inputs: Mapping[str, torch.Tensor], pooling: Pooling
) -> torch.Tensor:
    """What a head reads of a model: float32, shape (items, width)."""
    inputs = placed(model, inputs)
    trunk: Any = model.base_model
    return pool(trunk(**inputs).last_hidden_state, inputs.get("attention_mask"), pooling)


def answers(
    model: torch.nn.Module, inputs: Mapping[str, torch.Tensor], head: Head | None, task: str
) -> torch.Tensor:
    """A model's answers: through the task's head, or through the model's own classifier."""
    if head is not None:
        return head(pooled(model, inputs, head.pooling))
    logits = getattr(model(**placed(model, inputs)), "logits", None)
    if logits is None or logits.ndim != 2:
        raise InputError(
            f"{type(model).__name__} has no classifier of its own: give task {task} a head."
        )
    return logits.float()  # type: ignore[no-any-return]
