"""What models are run on: each class gets what it takes, and nothing that could be known before."""

import json

import pytest
import torch
import transformers

from tests.architectures.families import FAMILIES
from tests.tiny import LLAMA, add_tokenizer, llama
from unmergeable.architectures import declaration
from unmergeable.checkpoint.folder import open_folder
from unmergeable.errors import InputError
from unmergeable.models.load import load_model
from unmergeable.verification.forward import EMBEDDINGS, run
from unmergeable.verification.inputs import PROMPTS, Inputs, inputs_for

BY_TYPE = {family.config.model_type: family for family in reversed(FAMILIES)}
# What hands out the patches of all images one after the other.
IN_A_ROW = {"Gemma4VisionModel"}


def asked(folder, seed=0, prompts=None):
    opened = open_folder(folder)
    model = load_model(folder, opened.config)
    return model, inputs_for(model, folder, opened.config, prompts, seed)


@pytest.mark.parametrize("model_type", declaration.supported())
def test_every_class_of_every_family_can_be_run(model_type, tmp_path):
    family = BY_TYPE[model_type]
    for name in declaration.supported()[model_type].classes:
        config = family.config(**family.changes)
        if "QuestionAnswering" in name:
            config.num_labels = 2
        if name.endswith("EncoderModel"):
            config.is_encoder_decoder = False
        model = getattr(transformers, name)(config).eval()
        known = {**model.config.to_dict(), "architectures": [name]}
        inputs = inputs_for(model, tmp_path, known, None, 0)
        for outputs in run(model, inputs):
            assert 1 <= len(outputs.rows) <= len(inputs) or name in IN_A_ROW, name
            assert sum(row.size for row in outputs.rows) > 0, name


@pytest.mark.parametrize("pad", [None, 5])
@pytest.mark.parametrize("labels", [1, 3])
@pytest.mark.parametrize("kind", ["Llama", "GPT2", "Qwen2"])
def test_a_class_that_answers_once_is_never_asked_about_padding(kind, labels, pad):
    """As a batch, it would answer at the padding, or refuse where it knows of none."""
    family = BY_TYPE[kind.lower()]
    config = family.config(**{**family.changes, "pad_token_id": pad, "num_labels": labels})
    torch.manual_seed(0)
    model = getattr(transformers, f"{kind}ForSequenceClassification")(config).eval()
    known = {**model.config.to_dict(), "architectures": [type(model).__name__]}
    tokens = [[7, 9, 11], [8, 3, 2, 6, 9, 12, 13], [4]]
    inputs = Inputs(known, "tokens", tuple(map(tuple, tokens)))
    (outputs,) = run(model, inputs)
    for ids, row in zip(tokens, outputs.rows, strict=True):
        with torch.no_grad():
            want = model(input_ids=torch.tensor([ids])).logits.numpy()
        assert row.shape == (1, labels) and (row == want).all()


def test_padding_changes_no_answer(tmp_path):
    model, inputs = asked(llama(tmp_path / "m"))
    (outputs,) = run(model, inputs)
    for ids, row in zip(inputs.tokens, outputs.rows, strict=True):
        with torch.no_grad():
            want = model(input_ids=torch.tensor([ids])).logits[0].numpy()
        assert abs(row - want).max() < 1e-5


def test_random_tokens_are_other_ones_for_another_seed(tmp_path):
    folder = llama(tmp_path / "m")
    _, first = asked(folder, 1)
    assert asked(folder, 1)[1] == first != asked(folder, 2)[1]
    add_tokenizer(folder)
    _, one = asked(folder, 1)
    _, two = asked(folder, 2)
    count = len(PROMPTS)
    assert one.tokens[:count] == two.tokens[:count]
    assert one.tokens[count:] and not set(one.tokens[count:]) & set(two.tokens[count:])
    assert asked(folder, prompts=["the cat"])[1].tokens == ((3, 4),)


def test_images_are_other_ones_for_another_seed(tmp_path):
    family = BY_TYPE["vit"]
    family.build().save_pretrained(tmp_path / "m")
    one, same, two = (asked(tmp_path / "m", seed)[1].batch(0, 4) for seed in (1, 1, 2))
    assert one["pixel_values"].equal(same["pixel_values"])
    assert not one["pixel_values"].equal(two["pixel_values"])


@pytest.mark.parametrize("content", ['{"model": {}}', "no JSON"])
def test_a_tokenizer_that_cannot_be_loaded_is_said_and_random_tokens_taken(tmp_path, content):
    folder = llama(tmp_path / "m")
    (folder / "tokenizer.json").write_text(content)
    _, inputs = asked(folder)
    assert "random tokens" in inputs.about and "cannot load the tokenizer" in inputs.about
    assert "\n" not in inputs.about and len(inputs.about) < 600
    with pytest.raises(InputError, match="cannot load the tokenizer"):
        asked(folder, prompts=["the cat"])


def test_few_positions_are_enough(tmp_path):
    for model_type in ("roberta", "gpt2", "bert"):
        family = BY_TYPE[model_type]
        changes = {"max_position_embeddings": 12} | (
            {"n_positions": 12} if "gpt" in model_type else {}
        )
        model = getattr(transformers, family.model)(
            family.config(**{**family.changes, **changes})
        ).eval()
        known = {**model.config.to_dict(), "architectures": [family.model]}
        inputs = inputs_for(model, tmp_path, known, None, 0)
        assert 8 <= max(map(len, inputs.tokens)) <= 12
        assert run(model, inputs)


def test_embeddings_are_the_bare_models_hidden_states(tmp_path):
    model, inputs = asked(llama(tmp_path / "m"))
    logits, embeddings = run(model, inputs, embeddings=True)
    assert (logits.what, embeddings.what) == ("logits", EMBEDDINGS)
    bare = transformers.AutoModel.from_pretrained(tmp_path / "m", dtype=torch.float32).eval()
    with torch.no_grad():
        want = bare(input_ids=torch.tensor([inputs.tokens[0]])).last_hidden_state[0].numpy()
    assert abs(embeddings.rows[0] - want).max() < 1e-5
    assert [what.what for what in run(bare, inputs, embeddings=True)] == ["last_hidden_state"]


def test_an_answer_as_a_tuple_is_read_by_its_names(tmp_path):
    folder = llama(tmp_path / "m", return_dict=False)
    assert json.loads((folder / "config.json").read_text()) == LLAMA | {"return_dict": False}
    assert [outputs.what for outputs in run(*asked(folder))] == ["logits"]
