"""Fills a template that extends the frame."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unmergeable.auditing.page import formatting as words
from unmergeable.extras import optional


def render(template: Path, view: Mapping[str, Any]) -> str:
    """A page.

    Args:
        template: the file; it extends `frame.html` and may import `macros.html`.
        view: all that it asks for.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    jinja2 = optional("jinja2")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters.update(
        number=words.number,
        value=words.value,
        interval=words.interval,
        both=words.both,
        score=words.score,
        seconds=words.seconds,
        data=words.data,
        flops=words.flops,
        cost=words.cost,
        settings=words.settings,
        percent=words.percent,
    )
    return str(environment.get_template(template.name).render(view))
