"""How long and how fast a run learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

EVALUATIONS = 10


@dataclass(frozen=True)
class TrainConfig:
    """How long and how fast a run learns.

    Attributes:
        steps: optimiser steps; None to go by epochs.
        epochs: passes over the items.
        batch: items per process and pass.
        accumulate: passes per optimiser step.
        rate: peak learning rate of AdamW, after a linear warm-up over a tenth of the steps and
            before a cosine decay; None for 2e-5, and 3e-4 for an adapter.
        seed: of the items' order, dropout, new weights, and what the defence draws.
        tokens: texts are cut at this many.
        end: whether completions end with the end-of-text token.
        size: images are scaled to this many pixels a side where the base has no preprocessor; None
            for the model's own size.
        every: steps between two evaluations, at each of which there is a checkpoint; None for ten
            in the run.
        patience: evaluations in a row at which the validation loss at s = 1 may be above its best;
            0 for no early stop.
        precision: of the forward pass; weights and optimiser are float32. "auto" is bfloat16 where
            the device has instructions for it.

    Examples:
        >>> unmergeable.TrainConfig(steps=100, batch=4).precision
        'auto'
    """

    steps: int | None = None
    epochs: float = 1.0
    batch: int = 16
    accumulate: int = 1
    rate: float | None = None
    seed: int = 0
    tokens: int = 512
    end: bool = True
    size: int | None = None
    every: int | None = None
    patience: int = 5
    precision: Literal["auto", "bfloat16", "float32"] = "auto"
