"""Settings: what is taken, and the sentence for what is not."""

import doctest

import pytest

from unmergeable import settings
from unmergeable.defences.arf import Arf
from unmergeable.defences.mergebarrier.mergebarrier import SETTINGS as BARRIER
from unmergeable.defences.mergeguard import MergeGuard
from unmergeable.defences.params import Params
from unmergeable.defences.trap2 import Trap2
from unmergeable.errors import InputError
from unmergeable.settings import Setting, from_text, read


def test_the_modules_example_runs():
    assert doctest.testmod(settings).failed == 0


@pytest.mark.parametrize(
    ("known", "given", "said"),
    [
        (Params.settings, {"variant": "x"}, "variant='x': choose diagonal, symmetric or nonsymme"),
        (Params.settings, {"as_published": 1}, "as_published=1: choose true or false."),
        (Params.settings, {"low": "0"}, "low='0': give a number above 0."),
        (Params.settings, {"high": "inf"}, "high='inf': give a number above 0."),
        (Params.settings, {"low": True}, "low=True: give a number above 0."),
        (Params.settings, {"x": 1}, "owner has no setting 'x'; it has parts, variant, low, "),
        (BARRIER, {"order": 13}, "order=13: give a number above 0, up to 12."),
        (BARRIER, {"order": "2.5"}, "order=2.5: give a whole number."),
        (BARRIER, {"neurons": "most"}, "neurons='most': give a number above 0, up to 1."),
    ],
)
def test_what_cannot_be_is_said(known, given, said):
    with pytest.raises(InputError) as error:
        read(known, given, "owner")
    assert str(error.value).startswith(said)


@pytest.mark.parametrize(
    ("defence", "given", "said"),
    [
        (Arf, {"hinge": "x"}, "hinge is 'x': there is hinge, printed."),
        (MergeGuard, {"touched": 2}, "touched is 2: it must lie in [0, 1]."),
        (MergeGuard, {"alpha": "much"}, "alpha is 'much', which is not a number."),
        (MergeGuard, {"alpha": "nan"}, "alpha is nan: it must lie in [0, inf]."),
        (Trap2, {"x": 1}, "trap2 has no setting 'x'; there is strength, s_min, s_max, gap, "),
    ],
)
def test_training_words_it_in_its_own_way(defence, given, said):
    with pytest.raises(InputError) as error:
        defence(given)
    assert str(error.value).startswith(said)


def test_text_and_values_read_the_same():
    text = {"order": "3", "neurons": "0.5", "clamp": "False"}
    assert read(BARRIER, text, "") == read(
        BARRIER, {"order": 3, "neurons": 0.5, "clamp": False}, ""
    )
    assert read(BARRIER, {}, "")["order"] == 8 and read(BARRIER, {}, "")["directions"] is None
    assert type(read(BARRIER, {"order": 3.0}, "")["order"]) is int
    assert read({"any": Setting("anything")}, {"any": [1]}, "") == {"any": [1]}


@pytest.mark.parametrize(
    ("text", "value"), [("0.5", 0.5), ("0.7,0.3", [0.7, 0.3]), ("true", True), ('"ties"', "ties")]
)
def test_values_of_any_kind_come_from_text(text, value):
    assert from_text(text) == value
