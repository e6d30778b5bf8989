"""Printed letters: what is drawn and split, with stand-ins for fonts."""

import unicodedata
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from unmergeable.bench.data import fonts
from unmergeable.bench.data import letters as module
from unmergeable.errors import InputError

pytest.importorskip("PIL.ImageFont")


class Font:
    """Stands in for a font: letters are boxes whose height is their code, and some are missing."""

    def __init__(self, path, size):
        self.missing = "B" if "Lacking" in path else ""
        self.size = size

    def getmask(self, letter):
        return b"box" if letter in self.missing + module._NO_LETTER else letter.encode()


@pytest.fixture
def drawn(monkeypatch):
    asked = []

    def fake(font, letter, turn, centre):
        asked.append((font.size, turn, *centre))
        return np.full((module.SIZE, module.SIZE), ord(letter) % 256, np.uint8)

    monkeypatch.setattr("PIL.ImageFont.truetype", lambda path, size: Font(path, size))
    monkeypatch.setattr(module, "_drawn", fake)
    return asked


def test_a_font_is_drawn_if_it_has_every_letter(drawn):
    found = list(module.draw(Path("FreeSansBold.ttf"), "helvetica", "AB", 3))
    assert [(p.label, p.pixels[0, 0]) for p in found] == [(0, 65)] * 3 + [(1, 66)] * 3
    assert {p.group for p in found} == {"helvetica"} and len({p.name for p in found}) == 6
    assert list(module.draw(Path("FreeSansLacking.ttf"), "helvetica", "AB")) == []
    assert list(module.draw(Path("FreeSansLacking.ttf"), "helvetica", "AC"))


def test_drawings_differ_within_bounds_and_hang_on_the_seed(drawn):
    for seed in (0, 0, 1):
        list(module.draw(Path("FreeSans.ttf"), "a", module.SCRIPTS["greek"].letters, seed=seed))
    first, again, other = (drawn[i : i + 48] for i in (0, 48, 96))
    assert first == again != other and len(set(first)) == 48
    for size, turn, right, down in first:
        assert 28 <= size <= 40 and abs(turn) <= 10
        assert abs(right - 28) <= 4 and abs(down - 28) <= 4


@pytest.mark.parametrize(("stem", "design"), [("FreeSans", "LiberationSansNarrow-Bold"),
    ("FreeMono", "LiberationMono-Italic"), ("FreeSerif", "LiberationSerif-Regular"),
    ("Roboto-Thin", "RobotoCondensed-Bold"), ("DejaVuSans", "DejaVuSansMono-Bold")])  # fmt: skip
def test_copies_of_one_design_count_as_one(stem, design):
    first, second = (fonts.EUROPEAN.design(Path(f"{name}.ttf")) for name in (stem, design))
    assert first == second is not None
    assert fonts.EUROPEAN.design(Path("Unknown.ttf")) is None


@pytest.mark.parametrize("script", list(module.SCRIPTS.values()), ids=list(module.SCRIPTS))
def test_an_alphabet_has_each_letter_once(script):
    assert len(set(script.letters)) == len(script.letters) >= 22
    assert len(set(script.fonts.designs.values())) >= 6  # two for each split
    assert all(unicodedata.category(letter) in ("Lu", "Ll", "Lo") for letter in script.letters)


def test_no_design_is_in_two_splits(drawn, tmp_path, monkeypatch):
    starts = list(fonts.EUROPEAN.designs)
    for start in starts:
        for style in range(5):
            (tmp_path / f"{start}-{style}.ttf").touch()
    few = replace(fonts.EUROPEAN, packages=(("fonts", "1", "0" * 64),))
    monkeypatch.setitem(module.SCRIPTS, "latin", module.SCRIPTS["latin"]._replace(fonts=few))
    monkeypatch.setattr(fonts, "debian", lambda *_: tmp_path)
    task = module.letters("latin", tmp_path / "cache", train=20, validation=6, test=12)
    designs = []
    for part, size in ((task.train, 20), (task.validation, 6), (task.test, 12)):
        assert Counter(item.label for item in part) == dict.fromkeys(range(26), size)
        stems = [Path(item.text).stem for item in part]
        designs.append({few.designs[stem.split("-")[0]] for stem in stems})
    assert not designs[0] & designs[1] | designs[0] & designs[2] | designs[1] & designs[2]
    assert min(map(len, designs)) >= 2
    with pytest.raises(InputError, match="no script 'runic'; there is latin"):
        module.letters("runic", tmp_path)


def test_a_letter_is_white_on_black_and_lies_about_its_centre():
    font_library = pytest.importorskip("PIL.ImageFont")
    font = font_library.load_default(30)
    here, there = (module._drawn(font, "H", 0, (x, 28)) for x in (20, 32))
    assert here.shape == (module.SIZE, module.SIZE) and here.max() == 255 and here[0, 0] == 0
    columns = [np.flatnonzero(image.any(0)).mean() for image in (here, there)]
    assert columns[1] - columns[0] == pytest.approx(12, abs=1) and columns[0] == pytest.approx(
        20, abs=1.5
    )
    turned = module._drawn(font, "H", 10, (20, 28))
    assert not np.array_equal(turned, here)
