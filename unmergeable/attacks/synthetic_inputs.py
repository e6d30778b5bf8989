"""Inputs that a thief makes up: random tokens or noise, and text that the release writes itself.

They cost nothing, so no price counts them. What is learnt from them is all that a model says: the
next tokens after every position, the answers of its classifier, or the last hidden states that a
model without a head hands out. Nothing here depends on the coordinates inside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from unmergeable.attacks.attack import Thief
from unmergeable.evaluation.scoring import precision
from unmergeable.evaluation.task import Batch, Task
from unmergeable.merging.method import Corpus, State
from unmergeable.models.device import placed

if TYPE_CHECKING:
    import torch

RANDOM, WRITTEN = "random", "written"
SYNTHETIC = (RANDOM, WRITTEN)
TITLES = {RANDOM: "random inputs", WRITTEN: "text of its own"}
# Of random inputs every one is new; text has to be written, token by token, and is used again.
ITEMS = {RANDOM: 320, WRITTEN: 96}
TOKENS, SIZE = 16, 8
# Rows of the embedding that are this many times as long as the median one belong to no real token.
WILD = 10.0


@dataclass(frozen=True, kw_only=True)
class Spoken(Task):
    """All that a model says to an input, one answer for each position."""

    kind: ClassVar[str] = "spoken"

    def batches(
        self, runner: Any, texts: Any, labels: Any = None, groups: Any = None
    ) -> list[Batch]:
        """There is no text to encode: the inputs are synthetic."""
        raise NotImplementedError

    def logits(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Logits, or standardised hidden states: float32, shape (answers, classes or width).

        The divergence of standardised states, read as logits, is to second order half their mean
        square distance.
        """
        import torch

        out = model(**placed(model, batch.inputs))
        said: torch.Tensor | None = getattr(out, "logits", None)
        if said is None:
            hidden = out.last_hidden_state.float()
            said = torch.nn.functional.layer_norm(hidden, hidden.shape[-1:])
        return said.flatten(0, -2).float()


SPOKEN = Spoken(name="spoken", title="all that it says")


def suits(kind: str) -> Callable[[Thief], str]:
    """From a thief to why synthetic inputs of a kind cannot be made for his models."""

    def why(thief: Thief) -> str:
        model: Any = thief.runner.model
        if kind == WRITTEN and not (_reads(model) == "input_ids" and _writes(model)):
            return "models of this kind write no text"
        try:  # the base alone decides, so that no release can choose
            found = synthetic_inputs(thief, thief.base, kind, 1)
            if found is not None:
                thief.runner.load_state(thief.base)
                with precision(thief.runner):
                    SPOKEN.logits(model, found.batches[0])
                return ""
        except Exception:  # whatever a model class raises on inputs that it was not made for
            pass
        return "no synthetic input can be made for models of this kind"

    return why


def synthetic_inputs(thief: Thief, released: State, kind: str, count: int = 0) -> Corpus | None:
    """Synthetic inputs; None where none can be made.

    Args:
        thief: whose seed and runner.
        released: whose embedding tells real tokens, and who writes.
        kind: of `SYNTHETIC`.
        count: how many; by default `ITEMS`.
    """
    import torch

    count = count or ITEMS[kind]
    draw = torch.Generator().manual_seed(thief.seed)
    model: Any = thief.runner.model
    reads = _reads(model)
    if reads == "pixel_values":
        inputs = {reads: _noise(model.config, count, draw)}
        return _corpus(inputs, SIZE)
    if reads != "input_ids":
        return None
    thief.runner.load_state(released)
    real = _real_tokens(thief)
    if not len(real):
        return None
    if kind == RANDOM:
        ids = real[torch.randint(len(real), (count, TOKENS), generator=draw)]
    else:
        written = _written(thief, real, count, draw)
        if written is None:
            return None
        ids = written
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    # A classifier that looks for the last token takes one text at a time where it knows no padding.
    alone = getattr(model.config, "pad_token_id", None) is None and not _writes(model)
    return _corpus(inputs, 1 if alone and hasattr(model, "score") else SIZE)


def _reads(model: Any) -> str:
    """What a model is called with; empty where that is more than one thing."""
    config = model.config
    two = hasattr(config, "vision_config") and hasattr(config, "text_config")
    if two or getattr(config, "is_encoder_decoder", False):
        return ""
    return str(getattr(model, "main_input_name", ""))


def _writes(model: Any) -> bool:
    return bool(getattr(model, "can_generate", lambda: False)())


def _real_tokens(thief: Thief) -> torch.Tensor:
    """Tokens that may stand in a text: no special ones, and none with a wild embedding."""
    import torch

    model: Any = thief.runner.model
    sizes = model.get_input_embeddings().weight.detach().float().norm(dim=1).cpu()
    fair = sizes.isfinite() & (sizes <= WILD * sizes.nanmedian())
    special = getattr(thief.runner.tokenizer, "all_special_ids", [])
    fair[[one for one in special if one < len(fair)]] = False
    return torch.nonzero(fair).flatten()


def _written(
    thief: Thief, real: torch.Tensor, count: int, draw: torch.Generator
) -> torch.Tensor | None:
    """Text sampled token by token, each from a random first one; None if answers are not finite."""
    import torch

    model: Any = thief.runner.model
    first = real[torch.randint(len(real), (count, 1), generator=draw)]
    parts = []
    with torch.inference_mode(), precision(thief.runner):
        for start in range(0, count, 4 * SIZE):
            ids, cache = first[start : start + 4 * SIZE], None
            for _ in range(TOKENS - 1):
                out = model(
                    input_ids=ids[:, -1:].to(thief.runner.device),
                    past_key_values=cache,
                    use_cache=True,
                )
                cache, logits = out.past_key_values, out.logits[:, -1].float().cpu()
                if not logits.isfinite().all():
                    return None
                ids = torch.cat([ids, logits.softmax(1).multinomial(1, generator=draw)], 1)
            parts.append(ids)
    return torch.cat(parts).clone()


def _noise(config: Any, count: int, draw: torch.Generator) -> torch.Tensor:
    """Images of noise, from coarse to fine."""
    import torch

    size = config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    made = []
    for item in range(count):
        grain = min(2 ** (1 + item % 4), height, width)
        coarse = torch.randn(1, config.num_channels, grain, grain, generator=draw)
        made.append(torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear"))
    images = torch.cat(made)
    return images + 0.3 * torch.randn(images.shape, generator=draw)


def _corpus(inputs: dict[str, torch.Tensor], size: int) -> Corpus:
    count = len(next(iter(inputs.values())))
    batches = []
    for start in range(0, count, size):
        rows = tuple(range(start, min(start + size, count)))
        part = {name: tensor[start : start + size] for name, tensor in inputs.items()}
        batches.append(Batch(part, rows, None, {}))
    return Corpus(SPOKEN, batches)
