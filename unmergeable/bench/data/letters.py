"""Printed letters of one script, drawn from the fonts of Debian packages; split by design of type.

No design is in two splits. Each letter is drawn in every font that has all letters of the script,
with small random turns, shifts and sizes. They come without a head:
[`expert`][unmergeable.training.experts.expert] trains one with the trunk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from unmergeable.bench.data.fonts import ARABIC, EUROPEAN, GEORGIAN, HEBREW, Collection
from unmergeable.bench.data.image_files import Picture, written
from unmergeable.errors import InputError
from unmergeable.evaluation.images import ImageTask
from unmergeable.evaluation.splitting import Raw, Splits, split_groups
from unmergeable.extras import optional

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Script(NamedTuple):
    """What is drawn for a task.

    Attributes:
        title: for tables.
        letters: of the alphabet, a class each.
        fonts: that have them.
        drawings: of each letter in each font.
    """

    title: str
    letters: tuple[str, ...]
    fonts: Collection
    drawings: int = 2


def _range(first: int, last: int, without: str = "") -> tuple[str, ...]:
    return tuple(chr(code) for code in range(first, last + 1) if chr(code) not in without)


SCRIPTS = {
    "latin": Script("Latin capitals", _range(0x41, 0x5A), EUROPEAN),
    "latin-small": Script("small Latin letters", _range(0x61, 0x7A), EUROPEAN),
    "greek": Script("Greek letters", _range(0x3B1, 0x3C9, "ς"), EUROPEAN),
    "cyrillic": Script("Cyrillic letters", _range(0x430, 0x44F), EUROPEAN),
    # The five that end words look like others.
    "hebrew": Script("Hebrew letters", _range(0x5D0, 0x5EA, "ךםןףץ"), HEBREW, 3),
    # As they stand alone; without hamza, marbuta and the long stroke.
    "arabic": Script("Arabic letters", _range(0x627, 0x64A, "ةػؼؽؾؿـى"), ARABIC, 8),
    "georgian": Script("Georgian letters", _range(0x10D0, 0x10F0), GEORGIAN, 4),
}
SIZE = 56
_NO_LETTER = "\U0010fffd"  # for private use: whatever a font shows for it, it has no letter there


def letters(
    script: str,
    cache: str | Path | None = None,
    train: int = 60,
    validation: int = 10,
    test: int = 21,
    seed: int = 0,
) -> ImageTask:
    """Image of a printed letter -> which one; works on Debian 12 alone, where the fonts are.

    Args:
        script: One of `SCRIPTS`.
        cache: The cache folder.
        train: Items per class in the train split.
        validation: Items per class in the validation split.
        test: Items per class in the test split.
        seed: Changes which designs go where, and how letters are turned and shifted.

    Returns:
        The task; its items are PNG files in the cache.

    Raises:
        DownloadError: A package could not be fetched or is not the known one.
        InputError: No such script.
    """
    if script not in SCRIPTS:
        raise InputError(f"no script {script!r}; there is {', '.join(SCRIPTS)}.")

    chosen = SCRIPTS[script]

    def cut(raw: Iterable[Raw]) -> Splits:
        return split_groups(raw, len(chosen.letters), train, validation, test, seed)

    def pictures() -> Iterator[Picture]:
        for path, design in chosen.fonts.files(cache):
            yield from draw(path, design, chosen.letters, chosen.drawings, seed)

    inputs = {
        "script": chosen.letters,
        "drawings": chosen.drawings,
        "packages": chosen.fonts.packages,
        "designs": dict(chosen.fonts.designs),
        "sizes": (train, validation, test, seed),
        "code": 3,
    }
    parts = written(f"letters-{script}", inputs, pictures, cut, cache)
    return ImageTask(
        name=script,
        title=f"printed {chosen.title}",
        source=f"drawn from {chosen.fonts.source}",
        size=SIZE,
        **parts._asdict(),
    )


def draw(
    path: Path, design: str, script: Iterable[str], drawings: int = 2, seed: int = 0
) -> Iterator[Picture]:
    """Draws every letter of a script some times in a font; nothing if the font lacks one."""
    font_library: Any = optional("PIL.ImageFont")
    sizes = range(28, 41)
    fonts = {size: font_library.truetype(str(path), size) for size in sizes}
    some = fonts[sizes[0]]
    blank = bytes(some.getmask(_NO_LETTER))
    script = tuple(script)
    masks = [bytes(some.getmask(letter)) for letter in script]
    if any(mask == blank or not any(mask) for mask in masks):
        return
    for label, letter in enumerate(script):
        for number in range(drawings):
            # Four bytes that depend on nothing but what is drawn.
            chance = hashlib.sha256(f"{seed} {path.stem} {letter} {number}".encode()).digest()
            size, turn, right, down = (byte / 255 for byte in chance[:4])
            pixels = _drawn(
                fonts[sizes[round(size * (len(sizes) - 1))]],
                letter,
                turn=20 * turn - 10,
                centre=(SIZE / 2 + 8 * right - 4, SIZE / 2 + 8 * down - 4),
            )
            yield Picture(f"{path.stem}-{label:02}-{number}", label, design, pixels)


def _drawn(font: Any, letter: str, turn: float, centre: tuple[float, float]) -> NDArray[np.uint8]:
    """White on black; the letter's box is centred, then turned by degrees."""
    import numpy as np

    image: Any = optional("PIL.Image")
    draw_library: Any = optional("PIL.ImageDraw")
    canvas = image.new("L", (SIZE, SIZE), 0)
    left, top, right, bottom = font.getbbox(letter)
    corner = (centre[0] - (left + right) / 2, centre[1] - (top + bottom) / 2)
    draw_library.Draw(canvas).text(corner, letter, fill=255, font=font)
    return np.asarray(canvas.rotate(turn, image.Resampling.BILINEAR), np.uint8)
