from io import StringIO

import pytest
from rich.console import Console

from unmergeable.bench.demo.report import WIDTH, report

SCORE = {"accuracy": 0.5, "low": 0.4, "high": 0.6, "total": 100}


def cell(subject, attack, method, value):
    found = None if value is None else {"value": value, "low": value / 2, "high": value}
    status = "failed" if value is None else "measured"
    return {
        "subject": subject, "attack": attack, "method": method, "value": found, "status": status
    }  # fmt: skip


@pytest.fixture
def result():
    scores = dict.fromkeys(("base", "expert", "protected"), SCORE)
    tasks = [("a", "living things"), ("b", "stones")]
    return {
        "model": {"name": "Tiny"},
        "lock": {"same": True, "difference": 1e-6},
        "audit": {
            "tasks": [
                {"name": n, "title": t, "scores": scores, "items": {"test": 100}} for n, t in tasks
            ],
            "methods": [{"name": "ties", "title": "ties"}, {"name": "gone", "title": "gone"}],
            "cells": [
                cell("open", "none", "ties", 0.75),
                cell("protected", "none", "ties", 0.125),
                cell("protected", "align", "ties", 0.625),
                cell("open", "none", "gone", None),
            ],
            "controls": [{"title": "it works", "figure": "so it does", "passed": True}],
            "verdict": {"sentence": "Broken in 7 s."},
            "provenance": {"evaluations": 2},
        },
        "files": {"html": "/some/where/report.html"},
        "seconds": {"total": 1.0},
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
    flat = " ".join(text.split())
    for part in (
        "50.0% (40.0-60.0%)",
        "| ties | 0.75 (0.38-0.75) | 0.12 (0.06-0.12) | 0.62 (0.31-0.62) |",
        "| gone | failed | not run | not run |",
        "computes what the open one does (largest difference 1e-06 of the largest logit)",
        "Broken in 7 s.",
        "Control: it works: so it does.",
        "/some/where/report.html",
    ):
        assert part in flat, part
    assert "NOT" not in flat


def test_bad_news_is_told(result):
    result["lock"] = {"same": False, "difference": None}
    flat = " ".join(printed(result).split())
    assert "does NOT compute" in flat and "difference not finite" in flat
