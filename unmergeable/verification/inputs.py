"""What the two models of a comparison are fed: prompts, random tokens, images, sound.

Besides the built-in prompts, which everybody knows, there are tokens and images that are drawn when
the comparison starts: nobody can make a model that is right on them alone.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from unmergeable.errors import InputError, UnmergeableError
from unmergeable.models.load import load_tokenizer
from unmergeable.verification.senses import boxes, pictures, sounds

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
RANDOM_SIZES = tuple(range(8, 32, 3))
MAX_TOKENS = 256
BATCH = 4
_CHOICES = 2
_JOINT = ("CLIPModel", "SiglipModel", "Siglip2Model")  # which want a text and an image
Batch = dict[str, "torch.Tensor"]


@dataclass(frozen=True)
class Inputs:
    """What a model is run on.

    Attributes:
        config: of the model that is asked; the other one gets the same.
        about: what they are, for people.
        tokens: sequences of token ids; empty for a model without text.
        pixels: whether images go in.
        sound: the name of what sound goes in as, if it does.
        seed: of images and sound.
        takes: the names of all that the model can be given, of each whether it must be.
    """

    config: Mapping[str, Any]
    about: str
    tokens: tuple[tuple[int, ...], ...] = ()
    pixels: bool = False
    sound: str = ""
    seed: int = 0
    takes: Mapping[str, bool] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.tokens) or IMAGES

    def batch(self, start: int, stop: int) -> Batch:
        """Some of the items, in one batch; a model that sees and reads gets an image for each."""
        found: Batch = {}
        if self.tokens:
            found |= _padded(self.tokens[start:stop], self.config)
        if "bbox" in self.takes:
            found["bbox"] = boxes(found["input_ids"], self.config, self.seed)
        if self.pixels:
            found |= pictures(self.config, self.takes, start, stop, self.seed)
        if self.sound:
            found |= sounds(self.sound, self.config, start, stop, self.seed)
        return found


def inputs_for(
    model: Any,
    folder: Path,
    config: Mapping[str, Any],
    prompts: Sequence[str] | None,
    seed: int,
) -> Inputs:
    """What a model can be asked.

    Args:
        model: in memory; says whether it reads, sees or hears.
        folder: where its tokenizer is, if it has one.
        config: its config.json.
        prompts: for a text model; None for built-in ones and random tokens.
        seed: of what is random.

    Raises:
        InputError: prompts for a folder without a tokenizer that can be used.
    """
    kind = getattr(model, "main_input_name", "input_ids")
    if kind == "input_ids" and "patch_size" in config and "vocab_size" not in config:
        kind = "pixel_values"  # some towers do not say
    given = inspect.signature(model.forward).parameters.values()
    takes = {one.name: one.default is one.empty for one in given}
    written = kind == "pixel_values" and "input_ids" in takes  # a text about an image
    if kind == "pixel_values" and not written:
        about = f"{IMAGES} synthetic {'videos' if 'num_frames' in config else 'images'}"
        return Inputs(config, about, pixels=True, seed=seed, takes=takes)
    if kind in ("input_values", "input_features"):
        return Inputs(config, f"{IMAGES} synthetic sounds", sound=kind, seed=seed)
    nested = config.get("text_config")
    known = {**config, **nested} if isinstance(nested, Mapping) else dict(config)
    if not isinstance(known.get("vocab_size"), int):
        known["vocab_size"] = model.get_input_embeddings().num_embeddings
    tokens, about = _tokens(folder, known, prompts, np.random.default_rng(seed))
    joint = "vision_config" in config and (written or type(model).__name__ in _JOINT)
    joint |= "bbox" in takes and bool(config.get("visual_embed", True))
    if joint:
        about += f" and {len(tokens)} synthetic images"
    elif "vision_config" in config:
        about += ", without images"
    kept = tuple(tuple(ids) for ids in tokens)
    known["architectures"] = [type(model).__name__]
    return Inputs(known, about, kept, pixels=joint, seed=seed, takes=takes)


def _tokens(
    folder: Path,
    config: Mapping[str, Any],
    prompts: Sequence[str] | None,
    random: np.random.Generator,
) -> tuple[list[list[int]], str]:
    """Token ids of prompts, random ones after the built-in ones; only random ones if need be."""
    limit = min(MAX_TOKENS, _positions(config))
    tokenizer, why = None, "the folder has no tokenizer"
    try:
        tokenizer = load_tokenizer(folder)
    except UnmergeableError as error:
        if prompts is not None:
            raise
        why = str(error).rstrip(".")
    ids: list[list[int]] = []
    if tokenizer is not None:
        given = prompts is not None
        found = [list(tokenizer(text).input_ids[:limit]) for text in prompts or PROMPTS]
        ids = [tokens for tokens in found if tokens]
        about = f"{len(ids)} {'given' if given else 'built-in'} prompts"
        if ids and given:
            return ids, about
        why = "the folder's tokenizer makes nothing of the prompts"
    elif prompts is not None:
        raise InputError(f"{folder} has no tokenizer, so it cannot be run on the given text.")
    # Half as many where there are prompts: large vocabularies make outputs large.
    sizes = [min(size, limit) for size in (RANDOM_SIZES[::2] if ids else RANDOM_SIZES)]
    drawn = [random.integers(0, config["vocab_size"], size).tolist() for size in sizes]
    images = {n for key, n in config.items() if re.match(r"(image|video).*_token_i", key)}
    drawn = [[0 if token in images else token for token in tokens] for tokens in drawn]
    sequences = f"{len(drawn)} sequences of random tokens"
    return ids + drawn, f"{about}, {sequences}" if ids else f"{sequences} ({why})"


def _positions(config: Mapping[str, Any]) -> int:
    """How many tokens the model has positions for, or each of two that are in it."""
    inner = [config.get(part) for part in ("encoder", "decoder")]
    if known := [one for one in inner if isinstance(one, Mapping)]:
        return min(map(_positions, known))
    found = (config.get(name) for name in ("max_position_embeddings", "n_positions", "n_ctx"))
    most = next((n for n in found if isinstance(n, int) and n > 0), MAX_TOKENS)
    if str(config.get("model_type", "")) in _AFTER_PADDING:  # positions begin after the padding's
        most -= (config.get("pad_token_id") or 0) + 1
    return max(1, most)


_AFTER_PADDING = (
    "roberta", "xlm-roberta", "camembert", "mpnet", "xlm-roberta-xl", "roberta-prelayernorm",
    "data2vec-text", "longformer", "esm",
)  # fmt: skip


def _padded(tokens: Sequence[Sequence[int]], config: Mapping[str, Any]) -> Batch:
    """Sequences as one batch, padded with the token that the model takes for padding."""
    import torch

    name = str((config.get("architectures") or [""])[0])
    pad = config.get("pad_token_id")
    pad = pad if isinstance(pad, int) and 0 <= pad < config["vocab_size"] else 0
    width = max(map(len, tokens))
    ids = torch.full((len(tokens), width), pad, dtype=torch.long)
    mask = torch.zeros(len(tokens), width, dtype=torch.long)
    for row, sequence in enumerate(tokens):
        ids[row, : len(sequence)] = torch.tensor(sequence)
        mask[row, : len(sequence)] = 1
    found = {"input_ids": ids, "attention_mask": mask}
    if "attention_window" in config:  # else heads that answer questions look for three separators
        found["global_attention_mask"] = torch.zeros_like(mask)
        found["global_attention_mask"][:, 0] = 1
    if name.endswith("MultipleChoice"):  # each text is read once for each choice
        return {key: value[:, None].expand(-1, _CHOICES, -1) for key, value in found.items()}
    if config.get("is_encoder_decoder"):
        end = config.get("eos_token_id")
        if name.endswith("SequenceClassification") and isinstance(end, int):
            ids[ids == end] = (end + 1) % config["vocab_size"]
            ids[:, -1] = end  # it answers at the one token that ends a text
        shifted = torch.roll(ids, 1, dims=1)  # the decoder is asked for the text that was read
        decoder = config.get("decoder")
        if isinstance(decoder, Mapping) and "vocab_size" in decoder:  # of tokens of its own
            shifted %= decoder["vocab_size"]
        shifted[:, 0] = config.get("decoder_start_token_id") or 0
        found["decoder_input_ids"] = shifted
    return found
