"""Printed letters of one script, drawn from the fonts of Debian packages; split by design of type.

Fonts that copy one design (all of Times, say) count as one, whoever made them: no design is in two
splits. Each letter is drawn in every font that has all letters of the script, with small random
turns, shifts and sizes. They come without a head:
[`expert`][unmergeable.training.experts.expert] trains one with the trunk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unmergeable.errors import InputError
from unmergeable.extras import optional
from unmergeable.tasks.image_files import Picture, written
from unmergeable.tasks.images import ImageTask
from unmergeable.tasks.splitting import Raw, Splits, split_groups
from unmergeable.zoo.packages import debian

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Name, version and SHA-256, of Debian 12.
PACKAGES = (
    (
        "fonts-cmu",
        "0.7.0-5",
        "1bb92b7040b2737740cb77d0a89a830bf3824a2d20b20f039856b20f8349804d",
    ),
    (
        "fonts-dejavu-core",
        "2.37-6",
        "8892669e51aab4dc56682c8e39d8ddb7d70fad83c369344e1e240bf3ca22bb76",
    ),
    (
        "fonts-freefont-ttf",
        "20120503-10",
        "4ca1c21ebc479198a3a5879d236c8317d6f7b2f1c403f7890e24c02eead05615",
    ),
    (
        "fonts-liberation",
        "1:1.07.4-11",
        "efd381517f958b01969343634ffcbdd60056be7779af84c6f53a005090430204",
    ),
    (
        "fonts-linuxlibertine",
        "5.3.0-6",
        "5c77471e910189b3e4e2eda2b1c5f549ddcaf4de8f9640b97773643970d29087",
    ),
    (
        "fonts-open-sans",
        "1.11-2",
        "ed8c4258af6c23e5105fa18940544f060f3c9664fbe881f25130fe0c65bc1485",
    ),
    (
        "fonts-roboto-unhinted",
        "2:0~20170802-3",
        "f89cf7d8a589489daecf750031ec50456ab3e648d49ff544f0f08753268fbd91",
    ),
)
UNDER = "./usr/share/fonts/"
ENDINGS = (".ttf", ".otf")
# How a font file's name begins, to the design it follows; the first that fits counts.
DESIGNS = {
    "LinBiolinum": "biolinum",
    "LinLibertine": "libertine",
    "cmun": "computer modern",
    "DejaVuSerif": "dejavu serif",
    "DejaVuSans": "dejavu sans",
    "FreeMono": "courier",
    "LiberationMono": "courier",
    "FreeSerif": "times",
    "LiberationSerif": "times",
    "FreeSans": "helvetica",
    "LiberationSans": "helvetica",
    "OpenSans": "open sans",
    "Roboto": "roboto",
}
SCRIPTS = {
    "latin": tuple(map(chr, range(0x41, 0x5B))),
    "greek": tuple(chr(code) for code in range(0x3B1, 0x3CA) if code != 0x3C2),
    "cyrillic": tuple(map(chr, range(0x430, 0x450))),
}
SIZE = 56
DRAWINGS = 2
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
        script: "latin" (26 capitals), "greek" (24 small letters) or "cyrillic" (32 small letters).
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

    def cut(raw: Iterable[Raw]) -> Splits:
        return split_groups(raw, len(SCRIPTS[script]), train, validation, test, seed)

    def pictures() -> Iterator[Picture]:
        for package in PACKAGES:
            folder = debian(*package, UNDER, cache)
            for path in sorted(p for p in folder.rglob("*") if p.suffix in ENDINGS):
                yield from draw(path, SCRIPTS[script], seed)

    inputs = {
        "script": SCRIPTS[script],
        "packages": PACKAGES,
        "designs": DESIGNS,
        "sizes": (train, validation, test, seed),
        "code": 2,
    }
    parts = written(f"letters-{script}", inputs, pictures, cut, cache)
    return ImageTask(
        name=script,
        title=f"printed {script.capitalize()} letters",
        source="drawn from fonts of Debian 12: CMU, DejaVu, FreeFont, Liberation, Libertine, Open "
        "Sans, Roboto (OFL, Apache-2.0, GPL with font exception, and others)",
        size=SIZE,
        **parts._asdict(),
    )


def draw(path: Path, script: Iterable[str], seed: int = 0) -> Iterator[Picture]:
    """Draws every letter of a script in a font; nothing if the font lacks one or is unknown."""
    font_library: Any = optional("PIL.ImageFont")
    design = next((name for start, name in DESIGNS.items() if path.stem.startswith(start)), None)
    sizes = range(28, 41)
    fonts = {size: font_library.truetype(str(path), size) for size in sizes}
    some = fonts[sizes[0]]
    blank = bytes(some.getmask(_NO_LETTER))
    script = tuple(script)
    masks = [bytes(some.getmask(letter)) for letter in script]
    if design is None or any(mask == blank or not any(mask) for mask in masks):
        return
    for label, letter in enumerate(script):
        for number in range(DRAWINGS):
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
