import pytest

from unmergeable.auditing.page import formatting as words

SECONDS = [
    (None, "–"),
    (0, "0 s"),
    (0.03, "under 0.1 s"),
    (0.46, "0.5 s"),
    (9.96, "10 s"),
    (118.2, "118 s"),
    (130, "2.2 min"),
    (1510, "25 min"),
    (7200, "2.0 h"),
    (200_000, "2.3 days"),
]


@pytest.mark.parametrize(("spent", "said"), SECONDS)
def test_times_come_in_the_unit_that_suits_them(spent, said):
    assert words.seconds(spent) == said


@pytest.mark.parametrize(("value", "said"), [(None, "–"), (-0.001, "0.00"), (0.976, "0.98")])
def test_figures_have_two_decimals_and_no_negative_zero(value, said):
    assert words.number(value) == said


def test_prices_are_said_in_full():
    price = {"seconds": 61.0, "labelled": 500, "unlabelled": 12_000, "flops": 9.96e15}
    assert words.cost(price) == "61 s, 500 labelled, 12,000 unlabelled, 1.0 × 10¹⁶ FLOPs"
    price |= {"labelled": 0, "unlabelled": 0, "flops": None}
    assert words.cost(price) == "61 s, no data"


def test_coefficients_are_flat():
    found = {"weight": [0.5, 1.25], "inner": {"density": 0.1}, "kind": "a", "none": None}
    said = "weight = 0.5 : 1.25, inner.density = 0.1, kind = a, none = None"
    assert words.settings(found) == said and words.settings(None) == ""


def test_an_interval_that_lacks_an_end_is_left_out():
    assert words.both({"value": 0.5, "low": None, "high": 0.6}) == "0.50"
    assert words.both(None) == "–"
    score = {"accuracy": 0.5, "low": None, "high": 0.6, "total": 3}
    assert words.score(score) == "50.0%" and words.score(None) == "–"


LONG = "Broken with data: " + 20 * "and so on, "
HEADLINES = {
    "Broken: in seconds.": ("Broken: in seconds.", ""),
    LONG: ("Broken with data", LONG.removeprefix("Broken with data: ")),
    LONG.replace(":", ""): (LONG.replace(":", ""), ""),
    90 * "x" + LONG: (90 * "x" + LONG, ""),
}


@pytest.mark.parametrize(("sentence", "parts"), HEADLINES.items())
def test_a_long_verdict_begins_large(sentence, parts):
    assert words.headline(sentence) == parts
