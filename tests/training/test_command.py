import json

import pytest

from tests.training.small import DATA, base
from unmergeable.cli import main
from unmergeable.defences.registry import chain_of, training_defences
from unmergeable.errors import InputError

TRAINED = training_defences()


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNMERGEABLE_PROCESS_SET", "1")  # or the test would be restarted
    rows = [json.dumps({"prompt": prompt, "completion": word}) for prompt, word in DATA.rows]
    (tmp_path / "data.jsonl").write_text("\n".join(rows))
    (tmp_path / "bad.jsonl").write_text("{")
    return tmp_path


def test_the_command_prints_one_document_and_progress_elsewhere(data, capsys):
    options = "--data data.jsonl --out out --lora --lora-rank 2 --steps 2 --no-end --json"
    settings = "--defence trap2 --set strength=0.5 --set weighting=none"
    assert main(["train", "--base", str(base()), *options.split(), *settings.split()]) == 0
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert document["out"] == str(data / "out") and document["steps"] == 2
    assert document["settings"]["strength"] == 0.5
    assert document["settings"]["weighting"] == "none"
    last = err.splitlines()[-1]
    assert last.startswith("[2/2]") and "validation loss" in last
    config = json.loads((data / "out" / "adapter_config.json").read_text())
    assert config["r"] == 2
    assert set(config["target_modules"]) == {f"self_attn.{part}_proj" for part in "qkvo"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--data bad.jsonl", "line 1: not JSON"),
        ("--data data.jsonl --defence wall", "no training defence 'wall'"),
        ("--data data.jsonl --defence mergelock", "protect --defence mergelock"),
        ("--data data.jsonl --defence mergebarrier", "is put on a finished model"),
        ("--data data.jsonl --defence arf --lora", "no --lora with this defence"),
        ("--data data.jsonl", "--no-end"),
        ("--data data.jsonl --no-end --resume", "nothing to resume"),
    ],
)
def test_bad_input_is_2_and_leaves_nothing(data, capsys, options, said):
    before = set(data.iterdir())
    assert main(["train", "--base", str(base()), "--out", "out", *options.split()]) == 2
    assert said in capsys.readouterr().err
    assert set(data.iterdir()) == before


def test_without_data_there_is_no_training(data, capsys):
    assert main(["train", "--defence", "trap2", "--base", str(base()), "--out", "out"]) == 4
    assert "'--data'" in capsys.readouterr().err
    assert not (data / "out").exists()


@pytest.mark.parametrize("name", [name for name in TRAINED if name != "none"])
def test_protect_knows_every_trained_defence_by_name(name):
    with pytest.raises(InputError, match=f"{name} is learned.*train --defence {name}"):
        chain_of(f"lock+{name}", {})


def test_the_list_has_every_defence_and_setting(capsys):
    assert main(["train", "--list-defences"]) == 0
    told = capsys.readouterr().out
    for defence in TRAINED.values():
        assert f"{defence.name}: {defence.title}" in told
        assert all(f"--set {name}=" in told for name in defence.settings)
