"""Lists of numbers, made up."""

from collections import Counter

from unmergeable.bench.data.encoder_tasks import largest
from unmergeable.bench.data.largest_number import PLACES, raw_largest


def test_the_label_is_the_place_of_the_largest_and_all_numbers_have_two_digits():
    rows = list(raw_largest())
    for row in rows:
        numbers = [int(number) for number in row.text.split(" , ")]
        assert len(set(numbers)) == PLACES and 10 <= min(numbers) <= max(numbers) <= 99
        assert numbers[row.label] == max(numbers)
        assert row.group.split() == [str(number) for number in sorted(numbers)]
    assert min(Counter(row.label for row in rows).values()) > 2500
    seen = {row.text.split(" , ")[0] for row in rows}
    assert len(seen) == 90


def test_no_two_items_have_the_same_numbers():
    task = largest(train=40, validation=4, test=10)
    items = [*task.train, *task.validation, *task.test]
    assert len({frozenset(item.text.split(" , ")) for item in items}) == len(items) == 4 * 54
    assert Counter(item.label for item in task.test) == dict.fromkeys(range(PLACES), 10)
