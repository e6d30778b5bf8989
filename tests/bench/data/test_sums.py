"""Made-up sums, and the tasks of a decoder."""

from collections import Counter

from unmergeable.bench.data import decoder_tasks
from unmergeable.bench.data.debian import SECTIONS
from unmergeable.bench.data.sums import DIGITS, raw_sums
from unmergeable.evaluation.splitting import Raw


def test_sums_are_right_and_there_are_enough():
    groups: dict[int, set[str]] = {}
    for row in raw_sums():
        one, two = map(int, row.text.split(" + "))
        assert min(one, two) >= 100 and str(one + two)[0] == DIGITS[row.label]
        assert one + two < 1000 and set(row.group.split()) == {str(one), str(two)}
        groups.setdefault(row.label, set()).add(row.group)
    assert len(groups) == len(DIGITS) and min(map(len, groups.values())) >= 800


def test_a_prompt_of_a_sum_ends_where_its_digit_begins():
    task = decoder_tasks.first_digits(train=6, validation=2, test=4)
    assert Counter(item.label for item in task.test) == dict.fromkeys(range(len(DIGITS)), 4)
    one, two = map(int, task.test[0].text.split(" + "))
    said = task.prompt(task.test[0].text) + task.words[task.test[0].label]
    assert f"{one} + {two} = {one + two}".startswith(said)
    pairs = [frozenset(i.text.split(" + ")) for i in task.train + task.validation + task.test]
    assert len(set(pairs)) == len(pairs)


def test_programs_are_asked_for_by_section(monkeypatch):
    rows = [Raw(f"w{c}x{i} it", c, f"w{c}x{i}") for c in range(len(SECTIONS)) for i in range(9)]
    monkeypatch.setattr(decoder_tasks, "raw_descriptions", lambda _: rows)
    task = decoder_tasks.programs(train=4, validation=2, test=3)
    assert task.words[task.test[0].label] == f" {SECTIONS[task.test[0].label]}"
    assert task.prompt("a game") == "Package: a game\nSection:"
    assert len(task.train) == 40 and len(task.test) == 30
