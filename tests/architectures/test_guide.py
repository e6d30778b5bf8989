"""The guide says what the data files declare."""

from pathlib import Path

import pytest

from unmergeable.architectures.declaration import GUIDE, supported
from unmergeable.architectures.table import BEGIN, END, written
from unmergeable.gauge.groups import GROUPS

GUIDE_TEXT = (Path(__file__).parents[2] / GUIDE).read_text("utf-8")


def test_the_table_of_families_is_up_to_date():
    assert written(GUIDE_TEXT) == GUIDE_TEXT, "run `make docs`"


def test_every_model_class_and_every_group_is_in_the_guide():
    for declaration in supported().values():
        for name in (f"`{declaration.model_type}`", *declaration.classes):
            assert name in GUIDE_TEXT, name
    for group in GROUPS:
        assert f"`{group}`" in GUIDE_TEXT, group


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md"])
def test_how_many_model_types_there_are_is_said_right(page):
    text = (Path(__file__).parents[2] / page).read_text("utf-8")
    assert f"{len(supported())} model types" in text


def test_reasons_and_conditions_are_in_the_table():
    table = GUIDE_TEXT[GUIDE_TEXT.index(BEGIN) :]
    assert "head fixed: each head has a slope of its own (ALiBi)" in table
    assert "where `clip_qkv`: qk → rotary half quarter turns, vo → signed permutation" in table
    assert "embedding is one with residual" in table
    assert "token ids" not in table


def test_a_guide_without_markers_is_refused():
    for text in ("", BEGIN, END):
        with pytest.raises(ValueError, match="families: begin"):
            written(text)
