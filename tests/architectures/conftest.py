"""The tests of one family come one after the other, so that they share what is made of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.architectures.families import FAMILIES

HERE = Path(__file__).parent
ROOMS = {HERE, HERE.parent / "attacks", HERE.parent / "defences"}
ORDER: dict[object, int] = {family.name: place for place, family in enumerate(FAMILIES)}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts these folders' tests by family, and leaves all others where they are."""
    places = [place for place, item in enumerate(items) if item.path.parent in ROOMS]
    ours = sorted((items[place] for place in places), key=family_of)
    for place, item in zip(places, ours, strict=True):
        items[place] = item


def family_of(item: pytest.Item) -> int:
    """Where the family that a test is about stands; tests about none come first."""
    params = item.callspec.params if hasattr(item, "callspec") else {}
    family = params.get("family", params.get("name"))
    return ORDER.get(getattr(family, "name", family), -1)
