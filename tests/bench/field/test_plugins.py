"""A package that is installed beside ours: its defence and its attack are in the table."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

MODULE = """
from dataclasses import dataclass
from unmergeable.attacks.attack import Attack, Variant
from unmergeable.defences.defence import FieldRow
from unmergeable.defences.lock import Lock

class Padlock(Lock):
    name, title, claims = "padlock", "Padlock", ()
    rows = (FieldRow("padlock", "the padlock"),)

def copied(thief, released):
    yield Variant("as it is", dict(released))

PICK = Attack("pick", "picking", "Tries.", "data-free", before=copied)
"""
POINTS = """
[unmergeable.defences]
padlock = their_package:Padlock
[unmergeable.attacks]
pick = their_package:PICK
"""
PROGRAM = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from tests.bench.field.small import suite
from unmergeable.attacks import sweep
from unmergeable.auditing import ensemble
from unmergeable.bench.field import page
from unmergeable.bench.field.defences import chosen_defences
from unmergeable.bench.field.run import Order, run

torch.set_num_threads(1)
pairs = ensemble._weights(ensemble._GRID[:4])
ensemble._MERGEKIT["task_arithmetic"] = {"settings": pairs}
out = Path(sys.argv[1])
order = Order([suite()], chosen_defences(("padlock",)), out, only=("none", "align", "pick",
    "task_arithmetic"), out=out)
outcome = run(order)
assert not outcome.refused, outcome.refused
page.write(out, suites=("tiny",))
"""


@pytest.fixture
def installed(tmp_path):
    """The environment of a process that has the package."""
    root = tmp_path / "site"
    about = root / "their_package-1.0.dist-info"
    about.mkdir(parents=True)
    (root / "their_package.py").write_text(MODULE)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: their_package\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(POINTS)
    paths = [str(root), str(Path(__file__).parents[3])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def test_a_packages_defence_and_attack_are_in_the_table(installed, tmp_path):
    pytest.importorskip("mergekit")
    out = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(out)], env=installed, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    text = (out / "results.md").read_text()
    assert "| the padlock |" in text and "| full alignment | AGA | picking |" in text
    (row,) = (
        line
        for line in text.splitlines()
        if line.startswith("| `task_arithmetic` |")
        and line in text.partition("the padlock, two models")[2]
    )
    assert row.count("0.") > 3
    # The page is written where the package is not installed, too, from what is kept.
    from unmergeable.bench.field import page

    assert page.write(out, suites=("tiny",)).read_text() == text


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("their_package:PICK", "is no Defence"),
        ("unmergeable.defences.lock:Lock", "is called 'lock', a name in use"),
        ("their_package:NONE", "fails: module 'their_package' has no"),
    ],
)
def test_what_is_no_further_defence_is_refused_by_name(installed, tmp_path, named, message):
    points = tmp_path / "site" / "their_package-1.0.dist-info" / "entry_points.txt"
    points.write_text("[unmergeable.defences]\nbad = " + named + "\n")
    program = "from unmergeable.defences.registry import DEFENCES; list(DEFENCES)"
    done = subprocess.run(
        [sys.executable, "-c", program], env=installed, capture_output=True, text=True
    )
    assert done.returncode and f"bad = {named} {message}" in done.stderr
