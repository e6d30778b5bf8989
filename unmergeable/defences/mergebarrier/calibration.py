"""What the neurons of a model see on some data: the ranges that a polynomial must cover.

The stock model runs once over the data, with hooks on its FFN layers. Ranges come from all
positions but padding. Some inputs of each block are kept, to measure approximations on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from unmergeable.errors import InputError
from unmergeable.gauge.axis_map import Float
from unmergeable.models.device import placed
from unmergeable.models.model_runner import ModelRunner

if TYPE_CHECKING:
    import torch

# Longer texts are cut: the attention over them would cost more than they add.
MAX_TOKENS = 256
KEPT = 384
Item = str | Mapping[str, Any]


@dataclass(eq=False)
class Seen:
    """What one FFN block saw.

    Attributes:
        low: each neuron's least pre-activation, shape (neurons,).
        high: the greatest.
        inputs: some inputs of the block, (positions, width), float64.
        outputs: what the stock block made of them.
        carried: root mean square of what multiplies each neuron: 1 without a gate.
        size: median norm of the block's output over all positions.
    """

    low: Float
    high: Float
    inputs: Float
    outputs: Float
    carried: Float
    size: float


@dataclass(frozen=True)
class Block:
    """The modules of one FFN block by their paths in the model; `carried` empty without a gate."""

    up: str
    down: str
    carried: str = ""


def calibrate(
    runner: ModelRunner, paths: Sequence[Block], data: Sequence[Item], max_tokens: int = MAX_TOKENS
) -> list[Seen]:
    """Runs a model over data and records its FFN blocks.

    Args:
        runner: the model with its weights.
        paths: its FFN blocks.
        data: a text or an image file each; or the model's inputs themselves.
        max_tokens: texts are cut there.

    Raises:
        InputError: no data, or data that the model cannot be run on.
    """
    import torch

    if not data:
        raise InputError("there is no calibration data: give some lines of text, or image files.")
    recorders = [_Recorder(-(-KEPT // len(data))) for _ in paths]
    handles = []
    for path, recorder in zip(paths, recorders, strict=True):
        for part in ("up", "carried", "down"):
            name = getattr(path, part)
            if name:
                module = runner.model.get_submodule(name)
                handles.append(module.register_forward_hook(recorder.hook(part)))
    try:
        with torch.inference_mode():
            for batch in _batches(runner, data, max_tokens):
                mask = batch.get("attention_mask")
                for recorder in recorders:
                    recorder.mask = None if mask is None else mask.bool().cpu()
                try:
                    runner.model(**placed(runner.model, batch))
                except Exception as error:
                    raise InputError(
                        f"the model cannot be run on the calibration data: {error}"
                    ) from error
    finally:
        for handle in handles:
            handle.remove()
    return [recorder.seen() for recorder in recorders]


def _batches(
    runner: ModelRunner, data: Sequence[Item], max_tokens: int
) -> Iterator[Mapping[str, Any]]:
    """The model's inputs, one text or image at a time, so that nothing is padded."""
    import torch

    for item in data:
        if not isinstance(item, str):
            yield item
        elif runner.model.main_input_name == "pixel_values":
            from unmergeable.evaluation.images import ImageTask

            task = ImageTask(name="calibration", title="")
            yield task.batches(runner, [item])[0].inputs
        elif runner.tokenizer is None:
            raise InputError("the model has no tokenizer, so it cannot be run on texts.")
        else:
            config = runner.model.config
            positions = getattr(config, "max_position_embeddings", None) or max_tokens
            ids = runner.tokenizer(item).input_ids[: min(max_tokens, positions)]
            if ids:
                yield {"input_ids": torch.tensor([ids])}


@dataclass(eq=False)
class _Recorder:
    """Keeps what the hooks of one block see.

    Attributes:
        keep: positions to keep per batch.
        mask: which positions of the batch in hand are no padding; None for all.
    """

    keep: int
    mask: torch.Tensor | None = None
    low: Float | None = None
    high: Float | None = None
    squares: Float | None = None
    count: int = 0
    sizes: list[Float] = field(default_factory=list)
    inputs: list[Float] = field(default_factory=list)
    outputs: list[Float] = field(default_factory=list)

    def hook(self, part: str) -> Callable[[Any, Any, Any], None]:
        """A forward hook for one of the block's modules."""

        def see(module: Any, args: tuple[Any, ...], out: torch.Tensor) -> None:
            values = self._flat(out)
            if part == "up":
                low, high = values.min(0), values.max(0)
                self.low = low if self.low is None else np.minimum(self.low, low)
                self.high = high if self.high is None else np.maximum(self.high, high)
                self.inputs.append(self._some(self._flat(args[0])))
                self.count += len(values)
            elif part == "carried":
                total = (values**2).sum(0)
                self.squares = total if self.squares is None else self.squares + total
            else:
                self.sizes.append(np.linalg.norm(values, axis=1))
                self.outputs.append(self._some(values))

        return see

    def _flat(self, values: torch.Tensor) -> Float:
        """Positions by values, without padding."""
        if self.mask is not None and values.shape[:2] == self.mask.shape:
            values = values[self.mask]
        return np.asarray(values.reshape(-1, values.shape[-1]).double().cpu().numpy(), np.float64)

    def _some(self, values: Float) -> Float:
        chosen = np.linspace(0, len(values) - 1, min(self.keep, len(values))).astype(int)
        return np.asarray(values[chosen], np.float64)

    def seen(self) -> Seen:
        """The record."""
        if self.low is None or self.high is None:
            raise InputError("the calibration data is empty: nothing went through the model.")
        carried = np.ones_like(self.low)
        if self.squares is not None:
            carried = np.sqrt(self.squares / self.count)
        size = float(np.median(np.concatenate(self.sizes)))
        inputs, outputs = np.concatenate(self.inputs), np.concatenate(self.outputs)
        return Seen(self.low, self.high, inputs, outputs, carried, size)
