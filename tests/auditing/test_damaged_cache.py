"""What is damaged in the cache is measured again: no figure changes, and nothing is raised."""

import copy
from dataclasses import replace

import pytest
import torch

from tests.auditing.scene import audited
from unmergeable.attacks import sweep
from unmergeable.auditing import ensemble

TINY = replace(
    ensemble.DEMO,
    methods=("task_arithmetic",),
    attacks=("fine_tune",),
    aligns=(),
    line=0,
    settings=2,
)


def run(folder):
    return audited(folder, "tiny", train=True)


def figures(document):
    """Everything but what a clock says."""
    document = copy.deepcopy(document)
    for cell in document["cells"]:
        cell["price"].pop("seconds")
        cell.pop("seconds", None)
    return document["cells"], document["verdict"]["broken"]


def garbage(path):
    path.write_bytes(b"\x00garbage")


def cut(path):
    path.write_bytes(path.read_bytes()[:-3])


def empty(path):
    path.write_bytes(b"")


def other_json(path):
    path.write_text("{}")


def other_digit(path):
    """A figure that is wrong and looks right."""
    text = path.read_text()
    path.write_text(text.translate(str.maketrans("01", "10")))


DAMAGE = [garbage, cut, empty, other_json, other_digit]


def test_a_damaged_cache_is_measured_again(tmp_path, monkeypatch):
    pytest.importorskip("mergekit")
    torch.set_num_threads(1)
    monkeypatch.setitem(ensemble.PRESETS, "tiny", TINY)
    monkeypatch.setattr(sweep, "GRID", sweep.GRID[:1])  # a sweep has tests of its own
    wanted = figures(run(tmp_path))
    files = sorted((tmp_path / "cache").rglob("*.json"))
    assert {path.relative_to(tmp_path / "cache").parts[0] for path in files} >= {"scores", "making"}
    for n, path in enumerate(files):
        if n % 6:  # some are whole, and stand beside others that are not
            DAMAGE[n % 6 - 1](path)
    assert figures(run(tmp_path)) == wanted
