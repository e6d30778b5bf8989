from collections import Counter

import pytest

from unmergeable.errors import InputError
from unmergeable.evaluation.splitting import Raw, normalise, shorten, split, split_groups

# Threads of two texts, each thread of one label.
ROWS = [Raw(f"text {i}", i // 2 % 2, f"thread {i // 2}") for i in range(400)]


def groups(part):
    by_text = {row.text: row.group for row in ROWS}
    return [by_text[item.text] for item in part]


def test_parts_are_balanced_disjoint_and_share_no_thread():
    parts = split(ROWS, 2, train=40, validation=10, test=20)
    for part, size in zip(parts, (40, 10, 20), strict=True):
        assert Counter(item.label for item in part) == {0: size, 1: size}
    threads = [group for part in parts for group in groups(part)]
    assert len(set(threads)) == len(threads) == 140


def test_duplicates_go_and_contradictions_with_them():
    copies = [Raw(row.text + " !", row.label, row.group) for row in ROWS]
    found = split(ROWS + copies, 2, 40, 10, 20)
    assert [normalise(i.text) for i in found.test] == [
        normalise(i.text) for i in split(ROWS, 2, 40, 10, 20).test
    ]
    clash = [Raw("Text 0.", 1, "thread 0"), Raw("Text 1.", 1, "thread 0")]
    parts = split([*ROWS, *clash], 2, 70, 10, 19)
    assert all(normalise(item.text) not in ("text 0", "text 1") for p in parts for item in p)


def test_order_of_the_input_does_not_matter_and_the_seed_does():
    assert split(ROWS[::-1], 2, 40, 10, 20) == split(ROWS, 2, 40, 10, 20)
    assert split(ROWS, 2, 40, 10, 20, seed=1) != split(ROWS, 2, 40, 10, 20)


def test_test_items_stay_when_the_other_sizes_change():
    assert split(ROWS, 2, 30, 5, 20).test == split(ROWS, 2, 40, 10, 20).test


def test_too_few_texts_are_refused():
    with pytest.raises(InputError, match="class 0 has 70 distinct texts left for the train split"):
        split(ROWS, 2, train=80, validation=10, test=20)


def test_shortening_cuts_at_a_word_and_joins_lines():
    assert shorten("one\n\ttwo  three", 9) == "one two"
    assert shorten("one two", 7) == "one two"
    assert shorten("abcdefgh", 3) == "abc"


FAMILIES = [Raw(f"f{g} {c} {i}", c, f"f{g}") for g in range(12) for c in (0, 1) for i in range(9)]


def test_whole_groups_go_to_one_part_and_none_makes_it_up():
    parts = split_groups(FAMILIES, 2, train=30, validation=8, test=16)
    families = [Counter(item.text.split()[0] for item in part) for part in parts]
    for part, size in zip(parts, (30, 8, 16), strict=True):
        assert Counter(item.label for item in part) == {0: size, 1: size}
        assert len(set(part)) == len(part)
    names = [name for counts in families for name in counts]
    assert len(set(names)) == len(names)
    assert max(families[1].values()) <= 8 and max(families[2].values()) <= 16
    assert len(families[0]) >= 5 and set(families[0].values()) != {9}
    assert split_groups(FAMILIES[::-1], 2, 30, 8, 16) == parts
    assert split_groups(FAMILIES, 2, 30, 8, 16, seed=1) != parts
    with pytest.raises(InputError, match="texts left for the train split, 90 are wanted"):
        split_groups(FAMILIES, 2, 90, 8, 16)
