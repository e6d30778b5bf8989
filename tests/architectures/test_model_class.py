"""What users read of a folder, where its config names a class that they do not use."""

from __future__ import annotations

import json

import pytest
import torch
import transformers

from tests.architectures.families import FAMILIES, outputs
from tests.architectures.float8 import family_named
from tests.architectures.moving import scene, shapes
from tests.architectures.twin import KEY
from unmergeable.architectures import declaration
from unmergeable.architectures.layout import Layout
from unmergeable.checkpoint.folder import open_folder
from unmergeable.errors import InputError
from unmergeable.protection.inspect import inspect
from unmergeable.protection.protect import protect, unlock

SIGNS = ["modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"]


def bare(name, folder, named, **signs):
    """A folder of a family's bare model, whose config names another class."""
    row = family_named(name)
    base = getattr(transformers, row.model)(row.config(**row.changes)).base_model
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in base.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    base.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": [named]}))
    for sign in signs.get("files", ()):
        (folder / sign).write_text("[]")
    return folder


def hidden(folder, row):
    """Every output of the bare model; a pooler that the folder lacks is drawn, twice the same."""
    torch.manual_seed(0)
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    return outputs(model, row.inputs())


def check_kept(folder, out, name):
    """Locks a folder; what AutoModel says of it stays, and the key gives it back."""
    protect(folder, out, KEY)
    row = family_named(name)
    one, two = hidden(folder, row), hidden(out, row)
    assert float((one - two).abs().max() / one.abs().max()) < 1e-4
    assert (folder / "model.safetensors").read_bytes() != (out / "model.safetensors").read_bytes()
    assert unlock(out, out.with_name("again"), KEY).exact


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("name", ["llama-tied", "gpt2", "bert-masked", "t5", "mixtral"])
def test_a_folder_of_sentence_transformers_keeps_its_hidden_states(name, sign, tmp_path):
    row = family_named(name)
    folder = bare(name, tmp_path / "m", row.model, files=[sign])
    for space in inspect(folder).spaces:
        if space.name == "residual":
            assert sign in space.fixed and "hands it to its users" in space.fixed
    layout = Layout.of_folder(open_folder(folder))
    assert "residual" not in layout.movable() and layout.movable() and sign in layout.headless
    if sign == SIGNS[0]:
        check_kept(folder, tmp_path / "out", name)


MASKED = [
    "bert-masked", "roberta-masked", "mpnet", "distilbert-masked", "electra-generator",
    "albert-masked", "modernbert-masked", "qwen2-tied", "llama", "phi",
]  # fmt: skip


@pytest.mark.parametrize("name", MASKED)
def test_a_bare_model_under_the_class_with_a_head_keeps_its_hidden_states(name, tmp_path):
    row = family_named(name)
    folder = bare(name, tmp_path / "m", row.model)
    layout = Layout.of_folder(open_folder(folder))
    assert layout.model_class == row.model and f"without the head of {row.model}" in layout.headless
    outs = {s for rule in declared(row).classes.values() for s in rule.outputs}
    assert not outs & layout.movable().keys() and layout.movable()
    check_kept(folder, tmp_path / "out", name)


def declared(row):
    return declaration.declaration_for(row.config.model_type)


@pytest.mark.parametrize("name", ["gpt2", "bloom", "t5", "opt"])
def test_a_language_model_that_is_stored_without_prefix_as_a_rule_is_none(name):
    row = next(row for row in FAMILIES if row.name == name)
    stage, trunk = scene(row.name), declared(row).tensors[0].prefix
    tensors = {key.removeprefix(trunk): shape for key, shape in shapes(stage.state).items()}
    layout = Layout.of(stage.saved, tensors)
    assert not layout.headless and layout.movable().keys() == stage.layout.movable().keys()


@pytest.mark.parametrize("name", ["bert-masked", "llama-classifier", "mpnet"])
def test_a_lost_head_is_still_a_truncated_download(name):
    """The trunk's prefix says that it was the whole model once."""
    stage = scene(name)
    trunk = declared(stage.family).tensors[0].prefix
    kept = {key: shape for key, shape in shapes(stage.state).items() if key.startswith(trunk)}
    assert len(kept) < len(stage.state)
    with pytest.raises(InputError, match="Is the download complete"):
        Layout.of(stage.saved, kept)


def test_a_bare_model_that_lost_a_tensor_is_a_truncated_download():
    stage = scene("bert-bare")
    config = {**stage.saved, "architectures": ["BertForMaskedLM"]}
    kept = dict(list(shapes(stage.state).items())[:-4])
    with pytest.raises(InputError, match="Is the download complete"):
        Layout.of(config, kept)


def test_a_head_that_is_there_is_used():
    stage = scene("bert-masked")
    tensors = {key.removeprefix("bert."): shape for key, shape in shapes(stage.state).items()}
    layout = Layout.of(stage.saved, tensors)
    assert not layout.headless and "residual" in layout.movable()


def test_the_language_model_of_one_that_sees_keeps_its_hidden_states():
    stage = scene("llava")
    assert {"residual", "vision_residual"} <= stage.layout.movable().keys()
    layout = Layout.of(stage.saved, shapes(stage.state), "modules.json")
    assert not {"residual", "vision_residual"} & layout.movable().keys()
    assert layout.movable()


def test_the_locked_folder_has_the_same_spaces(tmp_path):
    folder = bare("llama-tied", tmp_path / "m", "LlamaForCausalLM", files=["modules.json"])
    protect(folder, tmp_path / "out", KEY)
    one, two = (Layout.of_folder(open_folder(f)).movable() for f in (folder, tmp_path / "out"))
    assert one.keys() == two.keys()
