from io import StringIO

import pytest
from rich.console import Console

from unmergeable.demo.report import WIDTH, report

CELL = {"accuracy": 0.5, "low": 0.4, "high": 0.6, "correct": 50, "total": 100}


def row(name, state, value, method=None, shares=None):
    return {
        "name": name,
        "state": state,
        "method": method,
        "whole_vectors": method == "addition",
        "scores": {"a": CELL, "b": CELL},
        "shares": shares,
        "value": value,
        "interval": None if value is None else [value / 2, value],
    }


@pytest.fixture
def result():
    return {
        "model": {"name": "Tiny"},
        "tasks": [{"name": "a", "title": "living things"}, {"name": "b", "title": "stones"}],
        "rows": [
            row("base", "single", 0.0),
            row("linear, open", "open", 0.5, "linear"),
            row("addition, open", "open", 0.75, "addition", {"a": 0.8, "b": 0.75}),
            row("addition, locked", "locked", 0.0, "addition", {"a": 0.97, "b": -0.02}),
            row("linear, locked", "locked", 0.125, "linear"),
            row("linear, aligned", "aligned", 0.25, "linear"),
            row("linear, unlocked", "unlocked", 0.5, "linear"),
        ],
        "lock": {"same": True, "difference": 1e-6, "unlocked_identical": True},
        "attack": {"seconds": 7.4, "residual": 0.066},
        "seconds": {"total": 1.0},
        "measured": 2,
    }


def printed(result):
    out = StringIO()
    console = Console(file=out, width=160)
    for part in report(result):
        console.print(part, soft_wrap=isinstance(part, str))
    return out.getvalue()


def test_every_row_and_every_figure_is_there_and_fits(result):
    text = printed(result)
    assert max(map(len, text.splitlines())) <= WIDTH
    for part in [row["name"] for row in result["rows"]] + [
        "50.0% (40.0-60.0%)",
        "0.75 (0.38-0.75)",
    ]:
        assert part in text
    flat = " ".join(text.split())
    assert "open expert: V = 0.75 (0.38 to 0.75), by addition" in flat
    assert "locked one: V = 0.12 (0.06 to 0.12), by linear" in flat
    assert "97% of the owner's gain and -2% of the peer's" in flat
    assert "first needed 7 s here, no key and no data" in flat
    assert "came within 6.6% of the expert's task vector" in flat
    assert "aligned model: V = 0.25 (0.12 to 0.25), by linear" in flat
    assert "bit for bit, and so its merges" in flat and "NOT" not in flat


def test_bad_news_is_told(result):
    result["lock"] = {"same": False, "difference": None, "unlocked_identical": False}
    result["rows"] = [row("base", "single", None), row("linear, open", "open", None, "linear")]
    flat = " ".join(printed(result).split())
    assert "does NOT compute" in flat and "difference not finite" in flat
    assert "does NOT give" in flat
    assert "no value, as an expert learned nothing" in flat
    assert "foreign coordinates" not in flat
