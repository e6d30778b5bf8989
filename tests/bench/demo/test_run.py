"""The whole demonstration on a tiny model: everything is real but the model and the texts."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.auditing.scene import RECIPE, THEIRS, scene, stones
from tests.evaluation.living import TASK, items
from unmergeable.auditing.report import check
from unmergeable.bench.demo import run as demo
from unmergeable.cli import cli, main
from unmergeable.keys.key import Key
from unmergeable.models.process import DONE


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """Stand-ins for what the demonstration downloads."""
    pytest.importorskip("mergekit")
    monkeypatch.setenv(DONE, "1")
    tasks = (
        replace(TASK, validation=items(40, 2)),
        replace(THEIRS, validation=stones(40, 7)),
    )
    monkeypatch.setattr(demo, "smollm2", lambda cache: scene()["base"])
    monkeypatch.setattr(demo, "glosses", lambda cache: tasks[0])
    monkeypatch.setattr(demo, "spam", lambda cache: tasks[1])
    monkeypatch.setattr(demo, "OWNER", RECIPE)
    monkeypatch.setattr(demo, "PEER", RECIPE)
    # A model this small survives some keys: what is asserted of merges needs one and the same.
    monkeypatch.setattr(Key, "generate", classmethod(lambda cls: cls(bytes(32))))
    return tmp_path / "cache"


def test_the_whole_run_and_a_second_one(tiny):
    first = demo.run(tiny)
    json.dumps(first, allow_nan=False)
    assert first["lock"]["same"] and first["lock"]["difference"] < 1e-4
    audit = first["audit"]
    check(audit)
    assert audit["tasks"][0]["scores"]["expert"]["accuracy"] > 0.9
    cells = {(c["subject"], c["attack"], c["method"]): c for c in audit["cells"]}
    methods = ("linear", "task_arithmetic", "ties")
    assert len(cells) == 3 * len(methods)
    for method in methods:
        opened, aligned = cells["open", "none", method], cells["protected", "align", method]
        assert opened["value"] == aligned["value"]
        assert cells["protected", "none", method]["scores"] != opened["scores"]
    assert any("same to the bit" in control["figure"] for control in audit["controls"])
    for suffix in ("json", "html", "md"):
        assert Path(first["files"][suffix]).stat().st_size > 1000
    second = demo.run(tiny)
    assert second["audit"]["provenance"]["evaluations"] == 0
    assert second["audit"]["cells"] == audit["cells"]


def test_the_command_prints_one_document_and_its_exit_code_follows_the_lock(tiny, monkeypatch):
    runner = CliRunner()
    done = runner.invoke(cli, ["demo", "--cache", str(tiny), "--json"], standalone_mode=False)
    document = json.loads(done.stdout)
    assert document["lock"]["same"] and "training on" not in done.stdout
    assert done.return_value == 0
    broken = {**document, "lock": {**document["lock"], "same": False}}
    monkeypatch.setattr(demo, "run", lambda *_: broken)
    assert main(["demo", "--cache", str(tiny)]) == 1


def test_not_a_number_becomes_none(tiny, monkeypatch):
    honest = demo._lock

    def broken(owner, folder):
        lock = honest(owner, folder)
        outputs = replace(lock.check.outputs, max_difference=math.nan)
        return replace(lock, check=replace(lock.check, outputs=outputs))

    monkeypatch.setattr(demo, "_lock", broken)
    result = demo.run(tiny)
    assert result["lock"]["difference"] is None and not result["lock"]["same"]
    json.dumps(result, allow_nan=False)
