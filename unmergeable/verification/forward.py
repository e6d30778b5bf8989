"""Runs a model in memory and gives back its outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from unmergeable.errors import InputError, clip
from unmergeable.extras import optional
from unmergeable.models.device import placed
from unmergeable.verification.inputs import BATCH, Inputs

if TYPE_CHECKING:
    import torch

EMBEDDINGS = "embeddings"
_MESSAGE = 200  # characters of another library's error


@dataclass(frozen=True)
class Outputs:
    """One of a model's outputs.

    Attributes:
        what: its name in transformers, such as "logits" or "last_hidden_state"; "embeddings" for
            the last hidden states of a model whose class hands out something else.
        rows: per sequence, image or sound, an array of shape (positions, values).
    """

    what: str
    rows: tuple[npt.NDArray[np.float32], ...]

    @property
    def is_distribution(self) -> bool:
        """Whether a softmax over the last axis means anything."""
        return self.what.endswith("logits") and all(row.shape[-1] > 1 for row in self.rows)


def run(model: Any, inputs: Inputs, *, embeddings: bool = False) -> tuple[Outputs, ...]:
    """Runs a model, one item at a time first, and in padded batches if it answers per token.

    A class that answers once for a text looks for its last token, and so cannot be given padding
    unless it knows what padding is.

    Args:
        model: of transformers, in evaluation mode.
        inputs: what it is run on.
        embeddings: whether to give its last hidden states, too, where its class keeps them.

    Returns:
        Each of its outputs, the main one first.

    Raises:
        InputError: a model that does not take these inputs.
    """
    torch = optional("torch")
    model.config.return_dict = True  # a folder may ask for nameless tuples
    found: dict[str, list[npt.NDArray[np.float32]]] = {}
    start, step = 0, 1 if inputs.tokens else BATCH
    # Convolutions on NVIDIA's cards are in 10 bits of mantissa unless told otherwise.
    with torch.inference_mode(), torch.backends.cudnn.flags(allow_tf32=False):
        while start < len(inputs):
            batch = inputs.batch(start, min(start + step, len(inputs)))
            for name, value in batch.items():
                batch[name] = value.to(model.dtype) if value.is_floating_point() else value
            batch = placed(model, batch)
            try:
                out = _named(model(**batch, return_dict=True))
                if embeddings and "last_hidden_state" not in out:
                    out[EMBEDDINGS] = model.base_model(**batch, return_dict=True).last_hidden_state
            except Exception as error:
                reason = clip(" ".join(str(error).split()), _MESSAGE)
                raise InputError(
                    f"{type(model).__name__} cannot be run on {inputs.about}: {reason}"
                ) from None
            if not out:
                raise InputError(f"{type(model).__name__} gives no output that can be compared.")
            for name, value in out.items():
                found.setdefault(name, []).extend(_split(value, batch.get("attention_mask")))
            start += step
            if start == 1:
                step = BATCH if _answers_per_token(out, batch["input_ids"]) else 1
    return tuple(Outputs(name, tuple(rows)) for name, rows in found.items())


def _named(out: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors that a class hands to its users."""
    import torch

    found = {
        name: value
        for name, value in out.items()
        if isinstance(value, torch.Tensor) and value.is_floating_point() and value.ndim > 1
    }
    found.pop("image_hidden_states", None)  # an inner state, in the language model's coordinates
    if len(found) > 1 and "last_hidden_state" not in found:  # likewise
        found.pop("encoder_last_hidden_state", None)
    return found


def _answers_per_token(out: Mapping[str, torch.Tensor], ids: torch.Tensor) -> bool:
    """Whether each output has one row for each of more than one token."""
    count = ids.shape[-1]
    return count > 1 and all(x.ndim == 3 and x.shape[1] == count for x in out.values())


def _split(values: torch.Tensor, mask: torch.Tensor | None) -> list[npt.NDArray[np.float32]]:
    """One array (positions, values) per item; padding is left out."""
    arrays = []
    for item, value in enumerate(values.float().cpu().numpy()):
        array = value.reshape(-1, value.shape[-1])
        if mask is not None and values.ndim == 3 and values.shape[:2] == mask.shape:
            array = array[mask[item].cpu().numpy().astype(bool)]
        arrays.append(array)
    return arrays
