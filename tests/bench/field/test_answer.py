"""What the page says of figures: three answers, and the sentences."""

import re

import numpy as np
import pytest

from tests.bench.field.made_up import answers, made_up, reached, results
from unmergeable.bench.field import tables
from unmergeable.bench.field.answer import answer, close, conclusion, state
from unmergeable.bench.field.defences import NONE, chosen_defences
from unmergeable.bench.field.kept import Kept
from unmergeable.bench.field.results import Figure, Results
from unmergeable.evaluation.value import Estimate


def row(name):
    (found,) = chosen_defences((name,))
    return found


@pytest.mark.parametrize(
    ("theft", "answered", "words"),
    [
        ((0.2, 0.1, 0.49), "holds", ""),
        ((0.2, 0.1, 0.5), "undecided", ""),
        ((0.49, 0.3, 0.7), "undecided", ""),
        ((0.5, 0.4, 0.6), "broken", " (a close call)"),
        ((0.7, 0.5, 0.8), "broken", ""),
    ],
)
def test_holds_needs_the_upper_end_below_half(theft, answered, words):
    figure = Figure(0.3, 0.2, 0.4, {0: 0.3}, ["k" * 16], theft=Estimate(*theft))
    assert state(figure) == answered and close(figure) == words


def test_a_theft_is_a_share_of_the_open_merge_drawn_with_it():
    found = results()
    opened = found.best(NONE, ("none",))
    assert opened.value == pytest.approx(0.9) and opened.theft.value == 1
    figure = found.best(row("lock"), ("align",))
    assert figure.theft.value == pytest.approx(figure.value / opened.value)
    # Drawn together, the ratio is surer than the two figures are.
    spread = (figure.high - figure.low) / opened.value
    assert 0 < figure.theft.high - figure.theft.low < spread


def test_the_worst_of_many_ends_where_the_highest_of_all_ends():
    """A surer best does not hide a lesser figure whose interval reaches further."""
    found = made_up(rows=("none", "lock"))
    lock = {where: cell for where, cell in found.cells.items() if "pair/lock/0/align/t" in where}
    few = answers(0.42)["marks"]  # the wrong items, too, so that the figure is less sure
    flipped = {
        name: "".join(np.random.default_rng(5).permutation(list(m))) for name, m in few.items()
    }
    cells = {
        **found.cells,
        "pair/lock/0/align/task_arithmetic": {
            **lock["pair/lock/0/align/task_arithmetic"],
            **answers(0.44),
        },
        "pair/lock/0/align/ties": {**lock["pair/lock/0/align/ties"], "marks": flipped},
    }
    figures = Results(Kept(found.index, cells))
    each = [
        figures.best(row("lock"), ("align",), methods=(m,)) for m in ("task_arithmetic", "ties")
    ]
    both = figures.best(row("lock"), ("align",), methods=("task_arithmetic", "ties"))
    assert each[0].value > each[1].value and each[0].high < each[1].high
    assert (both.value, both.low) == (each[0].value, each[0].low)
    assert both.keys == each[0].keys and both.top == each[1].keys and each[1].top == ()
    assert both.high == each[1].high and both.theft.high == each[1].theft.high
    assert state(each[0]) != state(both) or each[0].theft.high < both.theft.high


def test_runs_that_differ_widen_the_interval_of_their_mean():
    def worth(spread):
        return lambda row, attack, seed: 0.5 + spread * (seed - 1)

    one, apart = (results(worth(s), ("none", "trap2")).best(row("trap2"), ("align",),
        methods=("task_arithmetic",)) for s in (0, 0.3))  # fmt: skip
    assert one.value == pytest.approx(apart.value, abs=0.01) == pytest.approx(0.5, abs=0.01)
    assert apart.high - apart.low > 2 * (one.high - one.low)
    assert apart.low < 0.35 and apart.high > 0.65
    assert list(apart.seeds) == [0, 1, 2] and len(set(apart.keys)) == 3


def test_sentences_have_an_interval_and_a_cell_for_every_figure():
    found = results()
    sentences = answer(found)
    assert len(sentences) == 3
    keys = {cell["key"][:8] for cell in found.measured()}
    for sentence in sentences:
        told = re.findall(r"\d+% \(\d+% to \d+%;(?:(?: to)? `[0-9a-f]{8}`)+\)", sentence)
        assert told and 3 * len(told) == sentence.count("%"), sentence
        assert set(re.findall(r"`(\w+)`", sentence)) <= keys
    first, second, third = sentences
    assert "MergeBarrier-style (refused by them altogether)" in first
    stopped = first.partition("; ")[0]
    assert "lock" in stopped and "Trap²" not in stopped
    assert "undecided, as intervals reach half: PaRaMS (diagonal) (49%" in first
    assert "private base (low effort) still holds, at 11%" in second
    assert "from private base (low effort), the best attack with data" in third
    assert not any("trained again" in sentence for sentence in sentences)


def test_without_an_open_merge_nothing_is_said():
    nothing = results(lambda *_: 0.5, ("lock",))
    assert "Nothing can be said yet" in answer(nothing)[0]
    assert conclusion(nothing, row("lock")) == ""


@pytest.mark.parametrize(
    ("released", "aligned", "clause"),
    [
        (0.0, 0.85, "stops merge tools, falls to alignment"),
        (0.0, 0.42, "stops merge tools, may hold against alignment"),
        (0.42, 0.1, "may stop merge tools, holds against alignment"),
        (0.85, 0.85, "does not stop merge tools"),
        (0.47, 0.1, "does not stop merge tools (a close call)"),
    ],
)
def test_a_row_has_one_clause(released, aligned, clause):
    def worth(row, attack, seed):
        return released if attack == "none" else aligned

    found = results(worth, ("none", "lock"))
    assert conclusion(found, row("lock")) == clause


def test_the_readme_has_five_rows_with_the_hardest_to_steal_from():
    lines = tables.small(results()).splitlines()[2:]
    names = [line.split(" | ")[0].removeprefix("| ") for line in lines]
    assert names[:2] == ["no defence", "lock"] and len(names) == 5
    assert {"private base, low effort", "ARF + lock ‡"} <= set(names)
    assert "trained again, no defence" not in names
    assert reached("private-low", "align", 0) == 0
