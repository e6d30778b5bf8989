from dataclasses import replace

import pytest

from tests.bench.field.small import RECIPE, living, suite
from unmergeable.bench.field.columns import ATTACKS, CEILINGS, CONTROLS, CROWD, METHODS, columns
from unmergeable.bench.field.defences import DEFENCES, chosen_defences
from unmergeable.bench.field.suite import Suite, TaskRecipe
from unmergeable.errors import InputError


def places(found):
    return [where for column in found for where in column.places]


def test_the_full_grid_has_every_cell_once_for_every_defence():
    rows = chosen_defences()
    found = places(columns(suite(), rows, seeds=3))
    assert len(found) == len(set(found))
    for row in rows:
        for attack in ATTACKS:
            for method in METHODS:
                assert f"pair/{row.name}/0/{attack}/{method}" in found
        for ceiling in CEILINGS:
            assert f"pair/{row.name}/0/{ceiling}/" in found
        other_seeds = [where for where in found if where.startswith(f"pair/{row.name}/2/")]
        assert bool(other_seeds) == bool(row.trained)
        for method in CROWD:
            assert (f"crowd/{row.name}/0/align/{method}" in found) == row.main
        for attack in ATTACKS:
            assert (f"crowd/{row.name}/0/{attack}/{CROWD[0]}" in found) == row.main
    assert "pair/none/0/controls/" in found and "crowd/none/0/controls/" in found


def test_what_the_main_table_needs_comes_first_for_every_defence():
    rows = chosen_defences()
    first = columns(suite(), rows)[: 1 + 3 * len(rows)]
    assert first[0].attack == CONTROLS
    assert {column.attack for column in first[1 + len(rows) :]} == {"none", "align"}
    assert {column.defence.name for column in first} == {row.name for row in rows}


def test_a_quick_run_is_a_small_part_and_needs_no_data():
    rows = chosen_defences()
    quick, full = (columns(suite(), rows, quick=quick) for quick in (True, False))
    assert len(places(quick)) * 3 < len(places(full))
    assert not {c.attack for c in quick} & {"pull_back", "fine_tune", *CEILINGS}


@pytest.mark.parametrize(
    ("only", "attacks", "methods"),
    [
        (("align",), {"controls", "alone", "align"}, set(METHODS)),
        (("ties", "align"), {"controls", "alone", "align"}, {"ties"}),
        (("tsv",), {"controls", "alone", *ATTACKS, *CEILINGS}, {"tsv"}),
    ],
)
def test_only_keeps_what_it_names(only, attacks, methods):
    found = columns(suite(), chosen_defences(("lock",)), only=only)
    assert {column.attack for column in found} == attacks
    assert {method for column in found for method in column.methods} == methods


def test_one_row_brings_the_open_expert_along():
    found = columns(suite(), chosen_defences(("lock",)))
    assert {column.defence.name for column in found} == {"none", "lock"}


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: columns(suite(), [], only=("tis",)),
        lambda: chosen_defences(("padlock",)),
        lambda: suite()["moss"],
        lambda: replace(suite(), pair=("living", "moss")),
        lambda: replace(suite(), crowd=("stones", "living")),
    ],
)
def test_unknown_names_are_named(wrong):
    with pytest.raises(InputError, match=r"tis|padlock|moss|stones"):
        wrong()


def test_names_of_rows_are_unique_and_extras_have_to_be_asked_for():
    names = [row.name for row in DEFENCES]
    assert len(names) == len(set(names)) == len({row.title for row in DEFENCES})
    assert "arf" not in [row.name for row in chosen_defences()]
    assert [row.name for row in chosen_defences(("arf",))] == ["arf"]


def test_a_suite_can_be_without_a_crowd():
    alone = Suite(
        name="two",
        title="two",
        base=lambda cache: cache,
        tasks=(TaskRecipe("living", living, RECIPE), TaskRecipe("stones", living, RECIPE)),
        pair=("living", "stones"),
        crowd=("living", "stones"),
    )
    assert {column.group for column in columns(alone, chosen_defences())} == {"pair"}
