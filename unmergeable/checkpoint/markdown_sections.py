"""Text that a program writes into a page, between two markers."""

from __future__ import annotations


def put(page: str, begin: str, end: str, content: str) -> str:
    """The page with other content between two of its lines.

    Args:
        page: the page's text.
        begin: the marker before the content.
        end: the marker after it.
        content: lines, without the newlines around them.

    Raises:
        ValueError: a page without the two markers in this order.
    """
    before, _, rest = page.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise ValueError(f"the page has no {begin} followed by {end}")
    return f"{before}{part(begin, end, content)}{after}"


def part(begin: str, end: str, content: str) -> str:
    """Content between its markers, as `put` leaves it and `between` finds it."""
    return f"{begin}\n{content}\n{end}"


def between(page: str, begin: str, end: str) -> str | None:
    """What is between two lines of a page, without the newlines around it; None without them.

    Args:
        page: the page's text.
        begin: the marker before the content.
        end: the marker after it.
    """
    _, _, rest = page.partition(f"{begin}\n")
    content, found, _ = rest.partition(f"\n{end}")
    return content if found else None
