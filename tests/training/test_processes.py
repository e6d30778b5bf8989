"""Two processes on a CPU, as `accelerate launch` starts them, train one model together."""

import json
import os
import subprocess
import sys

import pytest

from tests.training.small import DATA, base, run, weights


# Where two changes are nearly the same size, which is the larger turns on rounding: so MergeGuard's
# second stage, which every process does for itself, touches nothing here.
@pytest.mark.parametrize(("defence", "settings"), [("trap2", {}), ("mergeguard", {"touched": "0"})])
def test_two_processes_train_one_model(tmp_path, defence, settings):
    rows = [json.dumps({"prompt": prompt, "completion": word}) for prompt, word in DATA.rows]
    (tmp_path / "data.jsonl").write_text("\n".join(rows))
    options = "--steps 3 --rate 1e-3 --batch 4 --no-end --precision float32 --every 3 --json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"),
            *("--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"),
            *("--dynamo_backend", "no", "--main_process_port", "0"),
            *("-m", "unmergeable", "train", "--defence", defence, "--base", str(base())),
            *("--data", str(tmp_path / "data.jsonl"), "--out", str(tmp_path / "out")),
            *options.split(),
            *(part for name, value in settings.items() for part in ("--set", f"{name}={value}")),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)  # one process alone speaks
    assert document["processes"] == [{"process": 0, "items": 12}, {"process": 1, "items": 12}]
    found = sorted(p.name for p in tmp_path.iterdir())
    assert found == ["data.jsonl", "out"]
    # What two processes learn from four items each is what one learns from the eight.
    alone = run(
        tmp_path / "alone",
        data=tmp_path / "data.jsonl",
        validation=None,
        defence=defence,
        settings=settings,
        steps=3,
        rate=1e-3,
        batch=8,
    )
    one, other, start = weights(tmp_path / "out"), weights(alone.out), weights(base())
    for name, tensor in one.items():
        moved = (other[name] - start[name]).abs().max()
        assert (tensor - other[name]).abs().max() < 0.05 * moved + 1e-7, name
    assert document["measured"]["validation"]["loss"] == pytest.approx(
        alone.document["measured"]["validation"]["loss"], rel=1e-4
    )
