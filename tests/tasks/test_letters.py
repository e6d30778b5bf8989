"""Printed letters: what is drawn and split, with stand-ins for fonts."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from unmergeable.errors import InputError
from unmergeable.tasks import letters as module

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


def test_a_font_is_drawn_if_it_is_known_and_has_every_letter(drawn):
    found = list(module.draw(Path("FreeSansBold.ttf"), "AB"))
    assert [(p.label, p.pixels[0, 0]) for p in found] == [(0, 65), (0, 65), (1, 66), (1, 66)]
    assert {p.group for p in found} == {"helvetica"} and len({p.name for p in found}) == 4
    assert list(module.draw(Path("FreeSansLacking.ttf"), "AB")) == []
    assert list(module.draw(Path("FreeSansLacking.ttf"), "AC"))
    assert list(module.draw(Path("Unknown.ttf"), "AB")) == []


def test_drawings_differ_within_bounds_and_hang_on_the_seed(drawn):
    for seed in (0, 0, 1):
        list(module.draw(Path("FreeSans.ttf"), module.SCRIPTS["greek"], seed))
    first, again, other = (drawn[i : i + 48] for i in (0, 48, 96))
    assert first == again != other and len(set(first)) == 48
    for size, turn, right, down in first:
        assert 28 <= size <= 40 and abs(turn) <= 10
        assert abs(right - 28) <= 4 and abs(down - 28) <= 4


@pytest.mark.parametrize(("stem", "design"), [("FreeSans", "LiberationSansNarrow-Bold"),
    ("FreeMono", "LiberationMono-Italic"), ("FreeSerif", "LiberationSerif-Regular"),
    ("Roboto-Thin", "RobotoCondensed-Bold"), ("DejaVuSans", "DejaVuSansMono-Bold")])  # fmt: skip
def test_copies_of_one_design_count_as_one(drawn, stem, design):
    groups = {next(module.draw(Path(name + ".ttf"), "A")).group for name in (stem, design)}
    assert len(groups) == 1


def test_no_design_is_in_two_splits(drawn, tmp_path, monkeypatch):
    starts = list(dict.fromkeys(module.DESIGNS))
    for start in starts:
        for style in range(5):
            (tmp_path / f"{start}-{style}.ttf").touch()
    monkeypatch.setattr(module, "PACKAGES", (("fonts", "1", "0" * 64),))
    monkeypatch.setattr(module, "debian", lambda *_: tmp_path)
    task = module.letters("latin", tmp_path / "cache", train=20, validation=6, test=12)
    designs = []
    for part, size in ((task.train, 20), (task.validation, 6), (task.test, 12)):
        assert Counter(item.label for item in part) == dict.fromkeys(range(26), size)
        stems = [Path(item.text).stem for item in part]
        designs.append({module.DESIGNS[stem.split("-")[0]] for stem in stems})
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
