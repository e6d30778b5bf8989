"""The whole demonstration on a tiny model: everything is real but the model and the texts."""

import json
import math
from dataclasses import replace

import pytest
from click.testing import CliRunner

from tests.tasks.living import TASK, model, save
from unmergeable.cli import cli, main
from unmergeable.demo import run as demo
from unmergeable.training.experts import Recipe
from unmergeable.zoo.allocator import DONE


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """Stand-ins for what the demonstration downloads; the peer's task names the other way round."""
    pytest.importorskip("mergekit")
    monkeypatch.setenv(DONE, "1")
    base = save(model(), tmp_path / "base")
    turned = replace(TASK, name="turned", template="is {text} :", words=TASK.words[::-1])
    monkeypatch.setattr(demo, "smollm2", lambda cache: base)
    monkeypatch.setattr(demo, "glosses", lambda cache: TASK)
    monkeypatch.setattr(demo, "spam", lambda cache: turned)
    monkeypatch.setattr(demo, "OWNER", Recipe(steps=40, batch=16, rate=5e-3))
    monkeypatch.setattr(demo, "PEER", Recipe(steps=40, batch=16, rate=5e-3))
    return tmp_path / "cache"


def test_the_whole_run_and_a_second_one(tiny):
    first = demo.run(tiny)
    json.dumps(first, allow_nan=False)
    assert first["lock"]["same"] and first["lock"]["unlocked_identical"]
    assert first["lock"]["difference"] < 1e-4
    rows = {row["name"]: row for row in first["rows"]}
    assert len(rows) == 4 + 3 * 4
    # The positive control of the attack: even after training as rough as this it comes close.
    assert first["attack"]["residual"] < 0.5
    assert rows["owner's expert"]["scores"]["living"]["accuracy"] > 0.8
    assert rows["base"]["value"] == 0.0
    for method in demo.METHODS:
        scores = [rows[f"{method.title}, {s}"]["scores"] for s in ("open", "unlocked")]
        assert scores[0] == scores[1]
    second = demo.run(tiny)
    assert second["measured"] == 0 and second["rows"] == first["rows"]
    # Merges of the unlocked expert are those of the open one; the aligned one's may be.
    assert first["measured"] in (4 + 3 * 2, 4 + 3 * 3)


def test_the_command_prints_one_document_and_its_exit_code_follows_the_lock(tiny, monkeypatch):
    runner = CliRunner()
    done = runner.invoke(cli, ["demo", "--cache", str(tiny), "--json"], standalone_mode=False)
    document = json.loads(done.stdout)
    assert document["lock"]["same"] and "training on" not in done.stdout
    assert done.return_value == 0
    for change in ({"same": False}, {"unlocked_identical": False}):
        broken = {**document, "lock": {**document["lock"], **change}}
        monkeypatch.setattr(demo, "run", lambda *_, broken=broken: broken)
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
