"""Each kind of task against the plainest way of asking the model."""

import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    Dinov2Config,
    Dinov2Model,
)

from tests.evaluation.living import TASK, VOCABULARY, runner, tokenizer
from unmergeable.errors import InputError
from unmergeable.evaluation.heads import Head
from unmergeable.evaluation.images import ImageTask
from unmergeable.evaluation.prose import ProseTask
from unmergeable.evaluation.scoring import score
from unmergeable.evaluation.task import Item
from unmergeable.evaluation.texts import TextTask
from unmergeable.models.model_runner import ModelRunner

BERT = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}


def bert(cls=BertModel):
    torch.manual_seed(0)
    return cls(BertConfig(**BERT, num_labels=2))


@pytest.fixture
def head(tmp_path):
    torch.manual_seed(1)
    path = tmp_path / "head.safetensors"
    save_file({"weight": torch.randn(2, 32), "bias": torch.randn(2)}, path)
    return path


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_text_task_pools_what_is_not_padding(head, pooling):
    one = ModelRunner(bert(), tokenizer())
    task = TextTask(name="a", title="a", test=TASK.test, head=Head(head, pooling))
    weights = task.head.tensors
    for batch in task.batches(one, [item.text for item in TASK.test]):
        got = task.logits(one.model, batch).detach()
        for item, row in zip(batch.items, got, strict=True):
            ids = tokenizer()(TASK.test[item].text, return_tensors="pt").input_ids
            hidden = one.model(input_ids=ids).last_hidden_state[0]
            pooled = hidden.mean(0) if pooling == "mean" else hidden[0]
            want = weights["weight"] @ pooled + weights["bias"]
            np.testing.assert_allclose(row, want.detach(), atol=1e-5)


def test_a_model_with_a_classifier_needs_no_head(head):
    one = ModelRunner(bert(BertForSequenceClassification), tokenizer())
    task = TextTask(name="a", title="a", test=TASK.test)
    assert score(one, task).total == len(TASK.test)
    bare = ModelRunner(bert(), tokenizer())
    with pytest.raises(InputError, match="no classifier of its own: give task a a head"):
        score(bare, task)
    wrong = head.with_name("wrong.safetensors")
    save_file({"weight": torch.randn(2, 5)}, wrong)
    with pytest.raises(InputError, match="width 5, and the model's hidden states are 32"):
        score(bare, TextTask(name="a", title="a", test=TASK.test, head=Head(wrong)))
    with pytest.raises(InputError, match="labels run from 0 to 1"):
        TextTask(name="a", title="a", test=(Item("cat", 2),), head=Head(head))


def test_an_image_task_reads_files_and_its_hash_sees_the_head(tmp_path, head):
    image = pytest.importorskip("PIL.Image")
    torch.manual_seed(0)
    vision = Dinov2Model(
        Dinov2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=28)
    )
    items = []
    for number in range(5):
        path = tmp_path / f"{number}.png"
        image.new("RGB", (40, 30), (50 * number, 10, 200)).save(path)
        items.append(Item(str(path), number % 2))
    task = ImageTask(name="a", title="a", test=tuple(items), head=Head(head, "cls"))
    found = score(ModelRunner(vision), task)
    assert found.total == 5 and all(math.isfinite(loss) for loss in found.losses)
    other = ImageTask(name="a", title="a", test=tuple(items), head=Head(head, "mean"))
    assert other.content_hash != task.content_hash
    (tmp_path / "broken.png").write_text("no image")
    with pytest.raises(InputError, match="is not an image"):
        task.batches(ModelRunner(vision), [str(tmp_path / "broken.png")])


def test_prose_is_marked_by_its_own_next_tokens():
    texts = ["cat is dog", "oak w1 w2 w3 w4 w5", "hen : w7"]
    task = ProseTask(name="a", title="a", test=tuple(Item(text, 0) for text in texts))
    one = runner()
    found = score(one, task)
    for text, mark, loss in zip(texts, found.marks, found.losses, strict=True):
        ids = tokenizer()(text, return_tensors="pt").input_ids
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            logits = one.model(ids).logits[0, :-1].float()
        want = (logits.argmax(1) == ids[0, 1:]).float().mean()
        assert mark == pytest.approx(float(want))
        plain = torch.nn.functional.cross_entropy(logits, ids[0, 1:])
        assert loss == pytest.approx(float(plain), abs=0.02)
    with pytest.raises(InputError, match="less than two tokens"):
        task.batches(one, ["cat"])
