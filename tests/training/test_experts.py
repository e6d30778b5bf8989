import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.evaluation.living import TASK, model, runner, save
from tests.tiny import weights_of
from unmergeable.checkpoint.folder import open_folder
from unmergeable.evaluation.scoring import score
from unmergeable.models.model_runner import ModelRunner
from unmergeable.training.experts import Recipe, expert, schedule


def test_schedule_covers_every_epoch_once_and_pads_little():
    lengths = [1 + i % 40 for i in range(160)]
    batches = schedule(lengths, Recipe(steps=20, batch=16))
    assert [len(b) for b in batches] == [16] * 20
    for epoch in (batches[:10], batches[10:]):
        assert sorted(i for b in epoch for i in b) == list(range(160))
    spread = sum(max(lengths[i] for i in b) - min(lengths[i] for i in b) for b in batches) / 20
    assert spread < 8
    assert batches == schedule(lengths, Recipe(steps=20, batch=16))
    assert batches != schedule(lengths, Recipe(steps=20, batch=16, seed=1))


def test_rate_warms_up_and_falls():
    rates = [Recipe(steps=50, rate=1.0).rate_at(step) for step in range(50)]
    assert rates[4] == pytest.approx(1.0) and max(rates) == pytest.approx(1.0)
    assert rates[0] < 0.3 and rates[-1] < 0.01


def test_training_learns_and_writes_an_ordinary_folder(tmp_path):
    base = save(model(), tmp_path / "base")
    (base / "relocation.json").write_text("{}")  # a private base: its experts may be published
    recipe = Recipe(steps=70, batch=16, rate=5e-3)
    folder = expert(base, TASK, recipe, tmp_path)
    learned = AutoModelForCausalLM.from_pretrained(folder)
    assert score(ModelRunner.of(folder), TASK).accuracy > 0.9
    assert score(runner(), TASK).accuracy < 0.8
    assert json.loads((folder / "config.json").read_text()) == json.loads(
        (base / "config.json").read_text()
    )
    assert learned.dtype == torch.float32 and not open_folder(folder).is_private
    # the same tensor names as the base, or no merge tool would take the two together
    assert (
        learned.state_dict().keys()
        == AutoModelForCausalLM.from_pretrained(base).state_dict().keys()
    )
    from safetensors import safe_open

    names = []
    for path in (base, folder):
        with safe_open(path / "model.safetensors", "pt") as file:
            names.append(sorted(file.keys()))
    assert names[0] == names[1]
    assert expert(base, TASK, recipe, tmp_path) == folder


def test_a_base_in_several_files_has_experts_in_one(tmp_path):
    one = save(model(), tmp_path / "one")
    many = tmp_path / "many"
    model().save_pretrained(many, max_shard_size="20KB")
    assert len(list(many.glob("*.safetensors"))) > 1
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (many / name).write_bytes((one / name).read_bytes())
    (many / "runs").mkdir()
    recipe = Recipe(steps=2)
    made = {base: expert(base, TASK, recipe, tmp_path) for base in (one, many)}
    assert made[one] != made[many]
    assert open_folder(made[many]).files[0].path.name == "model.safetensors"
    assert not list(made[many].glob("*.index.json")) and not (made[many] / "runs").exists()
    first, second = (weights_of(folder) for folder in made.values())
    assert first.keys() == second.keys()
    assert all((first[name] == second[name]).all() for name in first)
