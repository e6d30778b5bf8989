"""Runs a model folder with stock transformers and gives back its outputs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from unmergeable.errors import InputError
from unmergeable.extras import optional
from unmergeable.running.load import load_model
from unmergeable.running.offload import Offload

if TYPE_CHECKING:
    import torch

PROMPTS = (
    "The capital of France is Paris, and the capital of Japan is",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "Dear Sir or Madam, I am writing to complain about the delivery of my order, which",
    "Question: What is 17 plus 25? Answer:",
    "Es war einmal ein König, der hatte eine Tochter, die war so schön, dass",
    "La lune se lève sur la mer et",
    "In 1905, Einstein published four papers; the third, on special relativity, showed that",
    "<html><head><title>404 Not Found</title></head><body>",
)
IMAGES = 4
RANDOM_SEQUENCES = 8
MAX_TOKENS = 256
BATCH = 4


@dataclass(frozen=True)
class Outputs:
    """A model's outputs.

    Attributes:
        rows: per sequence or image, an array of shape (positions, values).
        what: "logits" or "last_hidden_state".
        inputs: what the model was run on, for people.
    """

    rows: tuple[npt.NDArray[np.float32], ...]
    what: str
    inputs: str

    @property
    def is_logits(self) -> bool:
        """Whether a softmax over the last axis means anything."""
        return self.what == "logits"


def run(
    folder: Path,
    tokenizer_folder: Path,
    config: Mapping[str, Any],
    prompts: Sequence[str] | None,
    offload: Offload | None = None,
) -> Outputs:
    """Runs a model in float32, in padded batches.

    Args:
        folder: the model.
        tokenizer_folder: where its tokenizer is, if it has one.
        config: its config.json.
        prompts: for a text model; None for the built-in ones. A model that sees is run on text
            alone: what it is fed with an image is its processor's, which a folder need not have.
        offload: what to do with layers that do not fit in memory; None: they fit.

    Raises:
        InputError: a model that transformers cannot load or run.
        MissingExtraError: torch or transformers are not installed.
    """
    torch = optional("torch")
    model = load_model(folder, config, offload)
    if model.main_input_name == "pixel_values":
        batches, about = _images(config), f"{IMAGES} synthetic images"
    else:
        nested = config.get("text_config")
        known = {**config, **nested} if isinstance(nested, Mapping) else dict(config)
        if "vocab_size" not in known:
            known["vocab_size"] = model.get_input_embeddings().num_embeddings
        batches, about = _texts(tokenizer_folder, known, prompts)
        if "vision_config" in config:
            about += ", without images"
    rows: list[npt.NDArray[np.float32]] = []
    what = "logits"
    with torch.inference_mode():
        for batch in batches:
            try:
                out = model(**batch)
            except Exception as error:
                raise InputError(f"{folder} cannot be run on {about}: {error}") from None
            what = "logits" if getattr(out, "logits", None) is not None else "last_hidden_state"
            rows += _split(out[what], batch.get("attention_mask"))
    return Outputs(tuple(rows), what, about)


def _split(values: torch.Tensor, mask: torch.Tensor | None) -> list[npt.NDArray[np.float32]]:
    """One array (positions, values) per item; padding is left out."""
    arrays = []
    for item, value in enumerate(values.float().cpu().numpy()):
        array = value.reshape(-1, value.shape[-1])
        if mask is not None and len(array) == mask.shape[1]:
            array = array[mask[item].cpu().numpy().astype(bool)]
        arrays.append(array)
    return arrays


def _texts(
    folder: Path, config: Mapping[str, Any], prompts: Sequence[str] | None
) -> tuple[list[dict[str, torch.Tensor]], str]:
    """Prompts in padded batches; random tokens where the folder has no tokenizer."""
    import torch
    from transformers import AutoTokenizer

    if any((folder / name).exists() for name in ("tokenizer.json", "vocab.txt", "tokenizer.model")):
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        texts = list(prompts or PROMPTS)
        positions = config.get("max_position_embeddings") or config.get("n_positions")
        limit = min(MAX_TOKENS, positions or MAX_TOKENS)
        ids = [tokenizer(text).input_ids[:limit] for text in texts]
        about = f"{len(ids)} {'given' if prompts else 'built-in'} prompts"
    elif prompts:
        raise InputError(f"{folder} has no tokenizer, so it cannot be run on the given text.")
    else:
        random = np.random.default_rng(0)
        sizes = range(8, 8 + 3 * RANDOM_SEQUENCES, 3)
        ids = [random.integers(0, config["vocab_size"], size).tolist() for size in sizes]
        images = {n for key, n in config.items() if re.match(r"(image|video).*_token_i", key)}
        ids = [[0 if token in images else token for token in tokens] for tokens in ids]
        about = f"{len(ids)} sequences of random tokens (the folder has no tokenizer)"
    begin = config.get("decoder_start_token_id") or 0
    batches = []
    for start in range(0, len(ids), BATCH):
        part = ids[start : start + BATCH]
        width = max(map(len, part))
        padded = torch.zeros(len(part), width, dtype=torch.long)
        mask = torch.zeros(len(part), width, dtype=torch.long)
        for row, tokens in enumerate(part):
            padded[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
        batch = {"input_ids": padded, "attention_mask": mask}
        if config.get("is_encoder_decoder"):  # the decoder is asked for the text that was read
            shifted = torch.roll(padded, 1, dims=1)
            shifted[:, 0] = begin
            batch["decoder_input_ids"] = shifted
        batches.append(batch)
    return batches, about


def _images(config: Mapping[str, Any]) -> list[dict[str, torch.Tensor]]:
    """Smooth colour gradients with noise, about normalised; the same on every machine."""
    import torch

    size = config.get("image_size", 224)
    height, width = size if isinstance(size, list) else (size, size)
    random = np.random.default_rng(0)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    images = []
    for _ in range(IMAGES):
        a, b, c = random.normal(size=(3, config.get("num_channels", 3), 1, 1))
        noise = random.normal(size=(config.get("num_channels", 3), height, width))
        images.append(a * x + b * y + np.sin(3 * c * x * y) + 0.3 * noise)
    return [{"pixel_values": torch.tensor(np.stack(images), dtype=torch.float32)}]
