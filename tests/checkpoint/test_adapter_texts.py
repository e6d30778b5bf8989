"""What an adapter's files say of the model it came from does not travel with it."""

import json

import pytest

from tests.tiny import lora
from unmergeable.checkpoint.adapter_folder import open_adapter
from unmergeable.checkpoint.adapter_texts import renamed_texts

PRIVATE = "/home/owner/secret-project/base-7b"
CARD = """---
base_model: {0}
library_name: peft
tags:
- base_model:adapter:{0}
- lora
- transformers
license: mit
---

# Card

Trained from {0} and {0}/checkpoint-500, see `{0}`.
"""


def adapter(folder, base, card=CARD, **config):
    lora(folder)
    path = folder / "adapter_config.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": base, **config})
    )
    (folder / "README.md").write_text(card.format(base))
    (folder / "tokenizer_config.json").write_text(json.dumps({"name_or_path": base}))
    return open_adapter(folder)


@pytest.mark.parametrize("model", [None, "owner/model-locked"])
@pytest.mark.parametrize("base", [PRIVATE, f"{PRIVATE}/", "openlab/base-7b", "./runs/base"])
def test_the_name_of_the_model_before_is_in_no_file(tmp_path, base, model):
    folder = adapter(
        tmp_path / "adapter", base, revision="a1b2", corda_config={"cache_file": "/data/x"}
    )
    texts = renamed_texts(folder, model)
    assert set(texts) == {"adapter_config.json", "README.md", "tokenizer_config.json"}
    for content in texts.values():
        assert base.strip("./") not in content.decode()
    config = json.loads(texts["adapter_config.json"])
    assert config["base_model_name_or_path"] == model
    assert config["revision"] is None
    assert config["corda_config"] == {"cache_file": None}
    card = texts["README.md"].decode()
    assert ("base_model: owner/model-locked\n" in card) == (model is not None)
    assert "library_name: peft\n" in card
    assert "- lora\n" in card
    assert "license: mit\n" in card
    json.loads(texts["tokenizer_config.json"])


def test_a_list_of_models_in_a_card_goes_too(tmp_path):
    card = "---\nbase_model:\n- openlab/one\n- openlab/two\nbase_model_relation: adapter\n"
    card += "tags: [x]\n---\nText.\n"
    texts = renamed_texts(adapter(tmp_path / "adapter", "openlab/one", card), "owner/locked")
    assert texts["README.md"] == b"---\nbase_model: owner/locked\ntags: [x]\n---\nText.\n"


def test_a_bare_word_is_replaced_where_it_is_a_model_only(tmp_path):
    texts = renamed_texts(adapter(tmp_path / "adapter", "gpt2"), None)
    assert set(texts) == {"adapter_config.json", "README.md"}
    assert "Trained from gpt2" in texts["README.md"].decode()
    assert "base_model" not in texts["README.md"].decode()


def test_a_model_s_own_code_is_not_named(tmp_path):
    mapping = {"base_model_class": "Own", "parent_library": "transformers_modules.secret.modeling"}
    texts = renamed_texts(adapter(tmp_path / "adapter", PRIVATE, auto_mapping=mapping), None)
    assert "secret" not in texts["adapter_config.json"].decode()


def test_what_names_no_model_stays_as_it_is(tmp_path):
    card = "---\nbase_model: ''\ntags:\n- 'base_model:adapter:'\n- lora\n---\nText.\n"
    folder = adapter(tmp_path / "adapter", "", card)
    assert renamed_texts(folder, None) == {}
    (tmp_path / "adapter" / "notes.txt").write_bytes(b"\xff\xfe not text")
    assert renamed_texts(open_adapter(tmp_path / "adapter"), None) == {}
