"""The docs list what the registries hold."""

from pathlib import Path

import pytest

from unmergeable.architectures.declaration import stems
from unmergeable.bench.registry_tables import PAGES, secret_by_family, written

DOCS = Path(__file__).parents[2] / "docs"


SOME = ("llama", "qwen3", "bert", "swin", "mixtral", "qwen3_vl", "mamba2")


@pytest.mark.parametrize("page", [page for page in PAGES if page != "architectures.md"])
def test_the_tables_of_the_docs_are_up_to_date(page):
    text = (DOCS / page).read_text("utf-8")
    assert written(page, text) == text, "run `make docs`"


def test_what_a_lock_draws_is_told_of_every_family_and_up_to_date_for_some():
    """The whole table takes as long as building every family's default model."""
    text = (DOCS / "architectures.md").read_text("utf-8")
    table = text[text.index("<!-- secret: begin -->") : text.index("<!-- secret: end -->")]
    assert [line.split("`")[1] for line in table.splitlines() if "(`" in line] == list(stems())
    for line in secret_by_family(SOME).splitlines():
        assert line in table, "run `make docs`"
