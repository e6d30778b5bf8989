"""Experts with a linear head, on a tiny BERT and a tiny DINOv2 that know nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, Dinov2Config, Dinov2Model

from tests.evaluation.living import TASK, VOCABULARY, runner, save
from unmergeable.errors import InputError
from unmergeable.evaluation.heads import Head, pooled
from unmergeable.evaluation.images import ImageTask
from unmergeable.evaluation.scoring import score
from unmergeable.evaluation.task import Item
from unmergeable.evaluation.texts import TextTask
from unmergeable.models.model_runner import ModelRunner
from unmergeable.training.experts import HeadRecipe, expert
from unmergeable.training.probe import FILE, features, headed, learning, probe, write_head

TEXTS = TextTask(name="living", title="living things", train=TASK.train, test=TASK.test)


def bert(folder):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    save(BertModel(config), folder)
    # Older files, such as that of MiniLM, hold a buffer that transformers no longer writes.
    path = folder / "model.safetensors"
    more = {"embeddings.position_ids": torch.arange(64)[None]}
    save_file({**load_file(path), **more}, path, {"format": "pt"})
    return folder


def dinov2(folder):
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, patch_size=7, image_size=28
    )
    Dinov2Model(config).save_pretrained(folder)
    return folder


def images(folder):
    """Noise with a bright left or right half."""
    image = pytest.importorskip("PIL.Image")
    draw = np.random.default_rng(0)
    folder.mkdir()
    items = []
    for number in range(72):
        pixels = draw.integers(0, 120, (28, 28))
        label = number % 2
        pixels[:, 14 * label : 14 * label + 14] += 90
        image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
        items.append(Item(str(folder / f"{number}.png"), label))
    return ImageTask(
        name="sides", title="sides", size=28, train=tuple(items[:48]), test=tuple(items[48:])
    )


KINDS = {
    "text": (bert, lambda folder: TEXTS, HeadRecipe(steps=40, batch=16, rate=3e-3)),
    "image": (dinov2, images, HeadRecipe(steps=60, batch=16, rate=2e-3)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_trunk_and_head_learn_and_lie_apart(tmp_path, kind, pooling):
    make, task, recipe = KINDS[kind]
    base, task = make(tmp_path / "base"), task(tmp_path / "images")
    recipe = replace(recipe, pooling=pooling)
    folder = expert(base, task, recipe, tmp_path)
    assert expert(base, task, recipe, tmp_path) == folder
    assert expert(base, task, replace(recipe, seed=1, steps=2), tmp_path) != folder

    before, after = load_file(base / "model.safetensors"), load_file(folder / "model.safetensors")
    assert {n: (t.shape, t.dtype) for n, t in before.items()} == {
        n: (t.shape, t.dtype) for n, t in after.items()
    }
    moved = [name for name in before if not before[name].equal(after[name])]
    assert any("layer.0" in name for name in moved) and any("embeddings" in n for n in moved)
    assert {p.name for p in folder.iterdir()} == {p.name for p in base.iterdir()}
    assert sorted(p.name for p in folder.parent.iterdir()) == [FILE, "model"]

    mine = headed(task, folder)
    assert mine.head.pooling == pooling and mine.head.classes == 2
    assert mine.content_hash != task.content_hash
    if kind == "text":
        assert (
            score(ModelRunner.of(folder), mine).accuracy
            > 0.9
            > score(ModelRunner.of(base), mine).accuracy
        )
    # The head was trained with the trunk, from the base's probe, and is not that probe any more.
    start = probe(ModelRunner.of(base), task, pooling, recipe.penalty)
    write_head(start, pooling, tmp_path)
    first = score(ModelRunner.of(base), headed(task, tmp_path / "model"), "train").loss
    assert score(ModelRunner.of(folder), mine, "train").loss < 0.7 * first
    found = mine.head.tensors
    gaps = {n: (found[n.rpartition(".")[2]] - tensor).abs().max() for n, tensor in start.items()}
    assert all(0 < gap < recipe.steps * recipe.rate for gap in gaps.values())


def test_a_probe_is_the_optimum_on_features_as_they_are(tmp_path):
    one = ModelRunner.of(bert(tmp_path))
    values, labels = features(one, TEXTS, TEXTS.train, "mean")
    # A column far from zero and one on another scale must not matter.
    weight, bias = (tensor.double() for tensor in probe(one, TEXTS, "mean", 1e-2).values())
    spread = values.std(0)

    def loss(weight, bias):
        entropy = torch.nn.functional.cross_entropy(values @ weight.T + bias, labels)
        return float(entropy + 1e-2 * (weight * spread).square().sum())

    least = loss(weight, bias)
    assert least < 0.6
    torch.manual_seed(0)
    for _ in range(20):
        assert loss(weight + 1e-2 * torch.randn_like(weight) / spread, bias) > least
        assert loss(weight, bias + 1e-2 * torch.randn_like(bias)) > least
    stiff = probe(one, TEXTS, "mean", 10.0)
    assert next(iter(stiff.values())).norm() < weight.norm() / 5


def test_features_come_in_the_items_order(tmp_path):
    one = ModelRunner.of(bert(tmp_path))
    items = sorted(TEXTS.train, key=lambda item: -len(item.text))[:6] + list(TEXTS.train[:6])
    values, labels = features(one, TEXTS, tuple(items), "cls")
    assert labels.tolist() == [item.label for item in items]
    for item, got in zip(items, values, strict=True):
        (batch,) = TEXTS.batches(one, [item.text])
        with torch.no_grad():
            want = pooled(one.model, batch.inputs, "cls")[0]
        np.testing.assert_allclose(got, want.double(), atol=0.05)  # bfloat16


def test_a_head_is_read_as_it_was_written(tmp_path):
    head = {"task_head.weight": torch.randn(3, 4), "task_head.bias": torch.randn(3)}
    write_head(head, "cls", tmp_path)
    (tmp_path / "model").mkdir()
    task = headed(TextTask(name="a", title="a"), tmp_path / "model")
    assert task.head == Head(tmp_path / FILE, "cls")
    assert task.head.tensors["weight"].equal(head["task_head.weight"])
    assert task.head.tensors["bias"].equal(head["task_head.bias"])


def test_what_cannot_have_a_head_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"was .* trained with a HeadRecipe"):
        headed(TEXTS, tmp_path / "model")
    one = ModelRunner.of(bert(tmp_path))
    with pytest.raises(InputError, match="no train items"):
        probe(one, replace(TEXTS, train=()))
    head = probe(one, TEXTS)
    with pytest.raises(InputError, match="of kind 'words', which has no heads"):
        learning(runner(), TASK, head, "mean")
