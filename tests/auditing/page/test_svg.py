import math
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.auditing.report.synthetic import DOCUMENTS
from unmergeable.auditing.page.prices import SECONDS
from unmergeable.auditing.page.svg import Drawing, Linear, Log
from unmergeable.auditing.report.figures import DECADES, price_figure
from unmergeable.auditing.report.queries import Reading

positive = st.floats(1e-3, 1e8)


@given(st.lists(positive, min_size=1, max_size=5), st.booleans())
def test_a_logarithmic_scale_holds_all_values_in_order(values, zero):
    scale = Log.over([*values, *([0.0] if zero else [])], SECONDS, 40, 900)
    places = [scale(value) for value in sorted(values)]
    assert places == sorted(places)
    assert all(40 <= place <= 900 for place in places)
    assert scale(0.0) == 40 and (not zero or places[0] > 70)
    ticks = [scale(value) for value, _ in scale.ticks()]
    assert len(ticks) >= 2 and all(later - place >= 35 for place, later in pairwise(ticks))


def test_a_logarithmic_scale_runs_upwards_too():
    scale = Log.over([0.0, 0.02, 1.3], DECADES, 280, 30)
    assert scale(0.0) == 280 > scale(0.02) > scale(1.3) > 30
    assert [name for _, name in scale.ticks()] == ["0", "0.01", "0.1", "1", "10"]


@given(st.floats(0, 10), st.floats(0.01, 1e4))
def test_linear_ticks_are_round_and_inside(low, span):
    scale = Linear(low, low + span, 0, 100)
    ticks = scale.ticks()
    assert 1 <= len(ticks) <= 6
    assert all(low - 1e-6 * span <= value <= (low + span) * (1 + 1e-6) for value, _ in ticks)
    assert all(math.isclose(float(name), value, rel_tol=1e-4) for value, name in ticks if value)


def test_an_empty_span_is_drawn_at_its_start():
    assert Linear(1.0, 1.0, 5, 10)(1.0) == 5


def test_names_are_escaped_and_gaps_stay_gaps():
    drawing = Drawing(10, 10, '"<&>"')
    drawing.path([(0, 0), None, (2, 2), (3, 3)], "curve")
    drawing.add("text", "name", "</svg><script>")
    assert 'd="M0.0 0.0M2.0 2.0L3.0 3.0"' in str(drawing)
    assert "<script>" not in str(drawing) and "&lt;/svg&gt;" in str(drawing)


@pytest.mark.parametrize("name", ["full", "crowded", "broken"])
def test_every_attack_has_its_number_in_both_drawings(name):
    document = DOCUMENTS[name]()
    reading = Reading(document)
    figure = price_figure(reading)
    for drawing in (figure.wide, figure.narrow):
        labels = re.findall(r'<text class="point"[^>]*>(\d+)', drawing)
        assert sorted(map(int, labels)) == list(range(1, len(reading.thefts()) + 1))


def test_labels_cover_neither_each_other_nor_the_edge():
    drawing = Drawing(100, 60, "labels at one place")
    within = (0, 0, 100, 60)
    placed = [drawing.label(["12"], (50, 30), "point", 8, within) for _ in range(12)]
    assert placed[0] and not placed[-1]
    boxes = drawing.taken
    for i, one in enumerate(boxes):
        assert one[0] >= 0 and one[2] <= 100 and one[1] >= 0 and one[3] <= 60
        for other in boxes[:i]:
            apart = one[2] <= other[0] or other[2] <= one[0]
            assert apart or one[3] <= other[1] or other[3] <= one[1]


def test_runs_that_cost_about_the_same_are_one_point():
    document = DOCUMENTS["full"]()
    curve = document["price_curve"]["attacks"]
    near = next(theft for theft in curve if theft["attack"] == "tune")
    for spent, taken in ((1509.0, 0.73), (1400.0, 0.72), (700.0, 0.6), (690.0, 0.1)):
        theft = near["theft"] | {"value": taken}
        curve.append(near | {"price": near["price"] | {"seconds": spent}, "theft": theft})
    told = [t["price"]["seconds"] for t in Reading(document).thefts() if t["attack"] == "tune"]
    assert told == [700.0, 1510.0]


def test_the_frontier_is_what_beats_everything_cheaper():
    reading = Reading(DOCUMENTS["full"]())
    names = [theft["attack"] for theft in reading.frontier()]
    assert names == ["none", "align", "subspace", "repair", "distil", "tune"]  # not "norms"
