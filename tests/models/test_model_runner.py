"""Weights in memory, and the model they are loaded into."""

import pytest
import torch
from safetensors.torch import load_file

from tests.evaluation.living import TASK, model, save
from tests.tiny import add_tokenizer, with_transformers
from unmergeable.checkpoint.folder import open_folder
from unmergeable.errors import InputError
from unmergeable.evaluation.scoring import score
from unmergeable.keys.key import Key
from unmergeable.models.model_runner import ModelRunner
from unmergeable.models.weights import Weights
from unmergeable.protection.protect import protect


@pytest.fixture
def folders(tmp_path):
    return save(model(), tmp_path / "one"), save(model(seed=1), tmp_path / "other")


def test_digest_sees_names_shapes_dtypes_and_values_and_not_the_order():
    tensors = {"a": torch.arange(6.0), "b": torch.zeros(2)}
    others = [
        {"a": torch.arange(6.0), "c": torch.zeros(2)},
        {"a": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(2)},
        {"a": torch.arange(6.0), "b": torch.zeros(2, dtype=torch.int32)},
        {"a": torch.arange(6.0) + 1e-6, "b": torch.zeros(2)},
    ]
    assert len({Weights(t).digest for t in [tensors, *others]}) == 5
    assert Weights(dict(reversed(tensors.items()))).digest == Weights(tensors).digest


def test_weights_are_those_of_the_files_whatever_their_dtype(folders, tmp_path):
    read = Weights.read(folders[0])
    stored = load_file(folders[0] / "model.safetensors")
    assert read.tensors.keys() == stored.keys()
    assert all(torch.equal(read.tensors[name], stored[name]) for name in stored)
    half = save(model().bfloat16(), tmp_path / "half")
    for name, tensor in Weights.read(open_folder(half)).tensors.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, stored[name].bfloat16().float())
    assert read.distance(read) == 0 < read.distance(Weights.read(folders[1]))


def test_pouring_gives_the_other_models_answers_and_keeps_its_tensors(folders):
    runner = ModelRunner.of(folders[0])
    want = [score(ModelRunner.of(folder), TASK) for folder in folders]
    others = Weights.read(folders[1]).tensors
    before = {name: tensor.clone() for name, tensor in others.items()}
    assert want[0] != want[1] and score(runner, TASK) == want[0]
    runner.load_state(others)
    assert score(runner, TASK) == want[1]
    assert model().config.tie_word_embeddings  # the head must have moved with the embeddings
    runner.load_state(others, copy=True)
    with torch.no_grad():
        for parameter in runner.model.parameters():
            assert parameter.requires_grad
            parameter.add_(1.0)
    assert all(torch.equal(others[name], before[name]) for name in others)
    runner.load_state(Weights.read(folders[0]).tensors)
    assert score(runner, TASK) == want[0]


def test_prefixes_may_differ_and_wrong_tensors_are_refused(folders):
    runner, state = ModelRunner.of(folders[0]), dict(Weights.read(folders[1]).tensors)
    bare = {name.removeprefix("model."): tensor for name, tensor in state.items()}
    runner.load_state(state)
    want = score(runner, TASK)
    fresh = ModelRunner.of(folders[0])
    fresh.load_state(bare)
    assert score(fresh, TASK) == want
    with pytest.raises(InputError, match="has no tensor 'strange'"):
        ModelRunner.of(folders[0]).load_state({**state, "strange": torch.zeros(2)})
    state.pop("model.norm.weight")
    with pytest.raises(InputError, match=r"miss.*norm"):
        ModelRunner.of(folders[0]).load_state(state)
    with pytest.raises(InputError, match="transformers cannot"):
        ModelRunner.of(folders[0].parent)


@pytest.mark.parametrize("family", ["Dinov2", "ViT", "Bert"])
def test_names_in_files_are_found_where_the_library_renames_them(tmp_path, family):
    import transformers

    config = getattr(transformers, f"{family}Config")(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    modules = []
    for seed, folder in enumerate((tmp_path / "one", tmp_path / "other")):
        torch.manual_seed(seed)
        modules.append(getattr(transformers, f"{family}Model")(config))
        with torch.no_grad():
            for parameter in modules[-1].parameters():
                parameter.normal_()
        modules[-1].save_pretrained(folder)
    found = ModelRunner.of(tmp_path / "one")
    found.load_state(Weights.read(tmp_path / "other").tensors)
    loaded, want = found.model.state_dict(), modules[1].state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in want.items())
    assert set(found.folder_names()) == set(want)


def test_a_folder_with_code_of_its_own_is_loaded_without_running_it(tmp_path, monkeypatch):
    """transformers would ask on the terminal whether to."""
    base = add_tokenizer(with_transformers(tmp_path / "base", "bert"))
    protect(
        base, tmp_path / "out", Key(bytes(32)), defence="mergebarrier",
        settings={"neurons": 0.5}, data=["the cat sat"],
    )  # fmt: skip
    (tmp_path / "out" / "modeling_mergebarrier.py").write_text("raise SystemExit('it ran')")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    runner = ModelRunner.of(tmp_path / "out")
    assert (
        runner.tokenizer("the cat")["input_ids"]
        == ModelRunner.of(base).tokenizer("the cat")["input_ids"]
    )
    assert type(runner.model).__name__ == "MergeBarrierBertModel"
