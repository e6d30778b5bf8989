"""Whether a task file's items can carry a verdict: few, repeated and shared ones are told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unmergeable.evaluation.store import file_hash
from unmergeable.evaluation.task import Item, Task

# Fewer test items of a task leave any figure to chance.
FEW = 100
# Coefficients are chosen on validation items; on fewer of them chance chooses.
FEW_VALIDATION = 32
# Of a task's test items, the share that may say what another one says. Intervals take items for
# independent, so copies make them narrower than they are.
COPIES = 0.05
# The kinds of task whose items have one of a few labels.
_CLASSES = ("words", "text", "image")


@dataclass(frozen=True)
class Doubt:
    """Something about the items that makes the figures worth less than they look.

    Attributes:
        name: of the flag.
        what: a clause for people.
        need: what would mend it; empty where it cannot make a protection look better than it is.
    """

    name: str
    what: str
    need: str = ""


def counted(tasks: Sequence[Task]) -> list[dict[str, int]]:
    """How many items each task has, how many of them are distinct, and how many it shares.

    Two items are the same if their texts are, but for case and spaces, or their images' bytes.

    Returns:
        For each task `test`, `validation`; of the test items `labels`, where they have classes,
        `distinct`, `in_validation` and `in_other_tasks`, each without repetitions.
    """
    tested = [{_known(task, item) for item in task.test} for task in tasks]
    found = []
    for index, (task, own) in enumerate(zip(tasks, tested, strict=True)):
        others = set[str]().union(*tested[:index], *tested[index + 1 :])
        found.append(
            {
                "test": len(task.test),
                "validation": len(task.validation),
                "distinct": len(own),
                **(
                    {"labels": len({item.label for item in task.test})}
                    if task.kind in _CLASSES
                    else {}
                ),
                "in_validation": len(own & {_known(task, item) for item in task.validation}),
                "in_other_tasks": len(own & others),
            }
        )
    return found


def doubts(tasks: Sequence[Mapping[str, Any]]) -> Iterator[Doubt]:
    """What is wrong with the items of an audit.

    Args:
        tasks: the report's, with their counts.
    """
    for task in tasks:
        items, title = task["items"], task["title"]
        test = items["test"]
        distinct = items.get("distinct", test)
        if distinct < FEW:
            yield Doubt(
                "few test items",
                f"{title} has {distinct} different test items",
                f"score on {FEW} different test items of each task or more",
            )
        if items.get("validation", FEW_VALIDATION) < FEW_VALIDATION:
            yield Doubt(
                "few validation items",
                f"{title} has {items['validation']} validation items, on which coefficients are "
                "chosen",
                f"give {FEW_VALIDATION} validation items of each task or more",
            )
        if items.get("labels", 2) < 2:
            yield Doubt(
                "one class",
                f"all test items of {title} have one label, which a model that always says so gets "
                "right",
                "give test items of every class",
            )
        if test - distinct > COPIES * test:
            yield Doubt(
                "repeated test items",
                f"{test - distinct} of the {test} test items of {title} repeat another one, so "
                "that its intervals are too narrow",
                "give each test item once",
            )
        if shared := items.get("in_validation", 0):
            yield Doubt(
                "items in two splits",
                f"{shared} test items of {title} are among its validation items, on which "
                "coefficients are chosen",
            )
        if shared := items.get("in_other_tasks", 0):
            yield Doubt("items in two tasks", f"{title} shares {shared} test items with others")


def _known(task: Task, item: Item) -> str:
    """What an item is known by."""
    if task.kind == "image":
        return file_hash(item.text)
    return " ".join(item.text.lower().split())
