from dataclasses import replace

import pytest

from unmergeable.auditing.audit_inputs import _shuffled
from unmergeable.auditing.items import FEW, FEW_VALIDATION, counted, doubts
from unmergeable.evaluation.label_words import WordTask
from unmergeable.evaluation.task import Item
from unmergeable.evaluation.task_file import TaskFile

PADDING = tuple(f"v {n}" for n in range(FEW_VALIDATION))


def task(name, test, validation=PADDING, classes=2):
    return WordTask(
        name=name,
        title=name,
        template="{text} :",
        words=("a", "b"),
        validation=tuple(Item(text, 0) for text in validation),
        test=tuple(Item(text, n % classes) for n, text in enumerate(test)),
    )


def told(*tasks):
    rows = zip(tasks, counted(tasks), strict=True)
    return {
        (d.name, bool(d.need)) for d in doubts([{"title": t.title, "items": n} for t, n in rows])
    }


ENOUGH = [f"item {n}" for n in range(FEW)]
OTHERS = [f"other {n}" for n in range(FEW)]
ROWS = {
    "all well": ([task("a", ENOUGH), task("b", OTHERS)], set()),
    "few": ([task("a", ENOUGH[1:])], {("few test items", True)}),
    "few that are many": (
        [task("a", ENOUGH[1:] * 2)],
        {("few test items", True), ("repeated test items", True)},
    ),
    "one in two repeated": ([task("a", ENOUGH * 2)], {("repeated test items", True)}),
    "case and spaces aside": (
        [task("a", [*ENOUGH, *(f" ITEM   {n}" for n in range(FEW))])],
        {("repeated test items", True)},
    ),
    "hardly any repeated": ([task("a", [*ENOUGH, *ENOUGH[:5]])], set()),
    "chosen on": ([task("a", ENOUGH, [*PADDING, ENOUGH[0]])], {("items in two splits", False)}),
    "hardly any to choose on": (
        [task("a", ENOUGH, PADDING[1:])],
        {("few validation items", True)},
    ),
    "one class": ([task("a", ENOUGH, classes=1)], {("one class", True)}),
    "in both tasks": (
        [task("a", ENOUGH), task("b", [*OTHERS, ENOUGH[3]])],
        {("items in two tasks", False)},
    ),
}


@pytest.mark.parametrize(("tasks", "flags"), ROWS.values(), ids=ROWS)
def test_few_repeated_and_shared_items_are_told(tasks, flags):
    assert told(*tasks) == flags


def test_images_are_the_same_by_their_bytes(tmp_path):
    class Pictures:
        kind, title, validation = "image", "pictures", ()

    for name, content in (("one", b"1"), ("two", b"1"), ("three", b"3")):
        (tmp_path / name).write_bytes(content)
    found = Pictures()
    found.test = [Item(str(tmp_path / name), 0) for name in ("one", "two", "three")]
    assert counted([found])[0]["distinct"] == 2


def test_validation_items_stand_in_random_order_and_others_as_they_were():
    """A file may have one class after the other, and candidates meet the first items first."""
    items = tuple(Item(f"v {n}", n // 50) for n in range(100))
    given = TaskFile((0,), (replace(task("a", ENOUGH), validation=items),), {})
    (mixed,) = _shuffled(given, 0).tasks
    assert sorted(mixed.validation) == sorted(items) and mixed.validation != items
    assert mixed.test == given.tasks[0].test
    assert {item.label for item in mixed.validation[:16]} == {0, 1}
    assert _shuffled(given, 0).tasks == (mixed,) == _shuffled(_shuffled(given, 0), 0).tasks
    assert _shuffled(given, 1).tasks[0].validation != mixed.validation
