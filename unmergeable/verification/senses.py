"""Images, videos and sounds that are drawn, in the form that a model takes them in."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

Batch = dict[str, "torch.Tensor"]


def pictures(
    config: Mapping[str, Any], takes: Mapping[str, bool], start: int, stop: int, seed: int
) -> Batch:
    """Smooth colour gradients with noise, about normalised, and what goes with them.

    Args:
        config: of the model.
        takes: the names of all that the model can be given, of each whether it must be.
        start: the number of the first.
        stop: that of the first one that is not wanted.
        seed: of all of them.
    """
    import torch

    nested = config.get("vision_config") or config.get("backbone_config") or config.get("encoder")
    known = {**config, **nested} if isinstance(nested, Mapping) else config
    placed = "pixel_position_ids" in takes
    if placed:  # of any size that squares of patches make up
        side = 4 * known["patch_size"] * (known.get("pooling_kernel_size") or 1)
        known = {**known, "image_size": side}
    frames = known.get("num_frames")
    found = [_picture(known, [seed, n], frames or 1) for n in range(start, stop)]
    pixels = torch.tensor(np.stack(found), dtype=torch.float32)
    pixels = pixels if frames else pixels[:, 0]
    if "spatial_shapes" in takes:
        return _cut(pixels, known["patch_size"])
    if placed:
        patches = _cut(pixels, known["patch_size"])["pixel_values"]
        rows, columns = np.indices([pixels.shape[-1] // known["patch_size"]] * 2).reshape(2, -1)
        places = torch.tensor(np.stack([columns, rows], axis=-1))
        positions = places.expand(stop - start, -1, -1)
        return {"pixel_values": patches, "pixel_position_ids": positions}
    batch = {"pixel_values": pixels}
    if "decoder_input_ids" in takes:
        begun = {**config, **config["decoder"]}
        batch["decoder_input_ids"] = _begun(begun, stop - start, seed)
    if "noise" in takes:  # decides which patches are seen; else it is drawn anew in each run
        noise = [np.random.default_rng([seed, n, 1]).uniform(size=_patches(known, pixels))
                 for n in range(start, stop)]  # fmt: skip
        batch["noise"] = torch.tensor(np.stack(noise), dtype=torch.float32)
    if takes.get("bool_masked_pos"):  # every second patch is to be painted
        hidden = torch.arange(_patches(known, pixels)) % 2 == 1
        batch["bool_masked_pos"] = hidden.expand(stop - start, -1)
    return batch


def boxes(ids: torch.Tensor, config: Mapping[str, Any], seed: int) -> torch.Tensor:
    """Places of words on a page: left, top, right, bottom.

    Args:
        ids: the words.
        config: of the model.
        seed: of the places.
    """
    import torch

    most = min(config.get("max_2d_position_embeddings", 1024), 1001)
    corners = np.random.default_rng(seed).integers(0, most, (*ids.shape, 2, 2))
    return torch.tensor(np.sort(corners, axis=-2).reshape(*ids.shape, 4))


def _picture(config: Mapping[str, Any], seed: list[int], frames: int) -> np.ndarray[Any, Any]:
    """An image, or the frames of a video."""
    height, width = _size(config)
    channels = config.get("num_channels", 3)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    random, made = np.random.default_rng(seed), []
    for _ in range(frames):
        a, b, c = random.normal(size=(3, channels, 1, 1))
        noise = random.normal(size=(channels, height, width))
        made.append(a * x + b * y + np.sin(3 * c * x * y) + 0.3 * noise)
    return np.stack(made)


def _size(config: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width of a model's images."""
    size = config.get("image_size", config.get("input_size"))
    if size is None and "num_patches" in config:  # a square of patches
        size = math.isqrt(config["num_patches"]) * config["patch_size"]
    height, width = size if isinstance(size, list) else (size or 224, size or 224)
    return height, width


def _patches(config: Mapping[str, Any], pixels: torch.Tensor) -> int:
    """How many patches a model cuts an image or a video into."""
    sides = config["patch_size"]
    sides = sides if isinstance(sides, list) else [sides, sides]
    count: int = (pixels.shape[-2] // sides[0]) * (pixels.shape[-1] // sides[1])
    frames: int = pixels.shape[1] // config.get("tubelet_size", 1) if pixels.ndim == 5 else 1
    return count * frames


def _cut(pixels: torch.Tensor, side: int) -> Batch:
    """Images as patches in a row, with their colours last."""
    import torch

    count, channels, height, width = pixels.shape
    rows, columns = height // side, width // side
    grid = pixels.reshape(count, channels, rows, side, columns, side)
    patches = grid.permute(0, 2, 4, 3, 5, 1).reshape(count, rows * columns, -1)
    return {
        "pixel_values": patches,
        "pixel_attention_mask": torch.ones(count, rows * columns, dtype=torch.long),
        "spatial_shapes": torch.tensor([[rows, columns]] * count),
    }


def sounds(kind: str, config: Mapping[str, Any], start: int, stop: int, seed: int) -> Batch:
    """Noise, as samples or as the features of a model that wants those.

    Args:
        kind: the name that they go in as.
        config: of the model.
        start: the number of the first.
        stop: that of the first one that is not wanted.
        seed: of all of them.
    """
    import torch

    shape = _shape(kind, config)
    noise = [np.random.default_rng([seed, n]).normal(size=shape) for n in range(start, stop)]
    found = {kind: torch.tensor(np.stack(noise), dtype=torch.float32)}
    if config.get("is_encoder_decoder"):
        found["decoder_input_ids"] = _begun(config, stop - start, seed)
    return found


def _begun(config: Mapping[str, Any], count: int, seed: int) -> torch.Tensor:
    """What a decoder has written of each item, at random."""
    import torch

    ids = np.random.default_rng(seed).integers(0, config["vocab_size"], (count, 8))
    ids[:, 0] = config.get("decoder_start_token_id") or 0
    return torch.tensor(ids)


def _shape(kind: str, config: Mapping[str, Any]) -> tuple[int, ...]:
    """Samples, bands over time, or time over bands."""
    if "feature_projection_input_dim" in config:
        return 100, config["feature_projection_input_dim"]
    nested = config.get("encoder_config", config)
    if kind == "input_features" and "subsampling_factor" in nested:
        return 20 * nested["subsampling_factor"], nested["num_mel_bins"]
    if "subsampling_conv_channels" in config:  # frequencies are halved twice, as channels are
        return 64, config["subsampling_conv_channels"][0]
    if kind == "input_features":
        return config.get("num_mel_bins", 80), 2 * config.get("max_source_positions", 1500)
    if "num_mel_bins" in config:  # a spectrogram, as an image
        return config.get("max_length", 1024), config["num_mel_bins"]
    return (4000,)
