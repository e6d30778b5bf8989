"""Text between two markers of a page."""

import pytest

from unmergeable.checkpoint.markdown_sections import between, part, put

MARKS = ("<!-- begin -->", "<!-- end -->")
PAGE = f"before\n\n{part(*MARKS, 'old')}\n\nafter\n"


@pytest.mark.parametrize("content", ["new", "", "two\n\nparts", "<!-- other: begin -->"])
def test_what_is_put_into_a_page_is_found_there_and_all_else_stays(content):
    page = put(PAGE, *MARKS, content)
    assert between(page, *MARKS) == content
    assert put(page, *MARKS, "old") == PAGE


@pytest.mark.parametrize("page", ["", MARKS[0], MARKS[1], f"{MARKS[1]}\n\n{MARKS[0]}"])
def test_a_page_without_the_markers_has_nothing_and_takes_nothing(page):
    assert between(page, *MARKS) is None
    with pytest.raises(ValueError, match="begin"):
        put(page, *MARKS, "new")
