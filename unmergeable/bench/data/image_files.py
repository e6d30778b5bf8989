"""Image tasks of the zoo: images from a package, written once as PNG files into the cache."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from unmergeable.evaluation import store
from unmergeable.evaluation.splitting import Raw, Splits
from unmergeable.evaluation.task import Item
from unmergeable.extras import optional

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

INDEX = "splits.json"


class Picture(NamedTuple):
    """A labelled image before splitting.

    Attributes:
        name: Of its file, without the ending; no two are the same.
        label: Counts the classes from 0.
        group: Shared by images that must not lie in two splits.
        pixels: uint8, shape (height, width), black on 0.
    """

    name: str
    label: int
    group: str
    pixels: NDArray[np.uint8]


def written(
    name: str,
    inputs: Mapping[str, Any],
    pictures: Callable[[], Iterable[Picture]],
    cut: Callable[[Iterable[Raw]], Splits],
    cache: str | Path | None = None,
) -> Splits:
    """Splits images and writes the chosen ones, on first use.

    Args:
        name: Of the folder in the cache.
        inputs: Everything that the images and the splits depend on, JSON-able.
        pictures: Makes the images.
        cut: Splits them by label and group; their names stand for the texts.
        cache: The cache folder.

    Returns:
        Items whose texts are paths of PNG files, one folder per split.
    """

    def make(folder: Path) -> None:
        image: Any = optional("PIL.Image")
        made = {picture.name: picture for picture in pictures()}
        parts = cut(Raw(p.name, p.label, p.group) for p in made.values())._asdict()
        for split, items in parts.items():
            (folder / split).mkdir()
            for item in items:
                image.fromarray(made[item.text].pixels).save(folder / split / f"{item.text}.png")
        store.write_json(folder / INDEX, parts)

    folder = store.get_or_make(f"data/{name}", inputs, make, cache)
    found = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    return Splits(
        **{
            split: tuple(Item(str(folder / split / f"{text}.png"), label) for text, label in items)
            for split, items in found.items()
        }
    )
