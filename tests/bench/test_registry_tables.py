"""The docs list what the registries hold."""

from pathlib import Path

import pytest

from unmergeable.bench.registry_tables import PAGES, written

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("page", PAGES)
def test_the_tables_of_the_docs_are_up_to_date(page):
    text = (DOCS / page).read_text("utf-8")
    assert written(page, text) == text, "run `make docs`"
