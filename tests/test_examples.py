"""The example runs as it stands, and shows what it says that it shows."""

import runpy
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[1] / "examples" / "protect_and_merge.py"


def test_the_example_protects_merges_aligns_and_unlocks(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), str(tmp_path)])
    seen = runpy.run_path(str(EXAMPLE))
    assert seen["report"].same
    assert seen["plain"] > 0.5  # a merge of two models in different coordinates
    assert seen["left"] < 1e-6
    assert seen["exact"]
    assert seen["unlocked"].out == tmp_path / "unlocked"
