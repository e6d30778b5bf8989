import pytest
import torch

from tests.tasks.living import TASK, model, save, tokenizer
from unmergeable.demo.scores import Scorer, Weights
from unmergeable.errors import InputError
from unmergeable.tasks.scoring import accuracy


def test_digest_sees_names_shapes_dtypes_and_bytes_and_not_the_order():
    tensors = {"a": torch.arange(6.0), "b": torch.zeros(2)}
    others = [
        {"a": torch.arange(6.0), "c": torch.zeros(2)},
        {"a": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(2)},
        {"a": torch.arange(6.0), "b": torch.zeros(2, dtype=torch.int32)},
        {"a": torch.arange(6.0) + 1e-6, "b": torch.zeros(2)},
    ]
    assert len({Weights.of(t).digest for t in [tensors, *others]}) == 5
    assert Weights.of(dict(reversed(tensors.items()))).digest == Weights.of(tensors).digest


def test_a_model_is_measured_once_per_content(tmp_path):
    first = save(model(), tmp_path / "first")
    same = save(model(), tmp_path / "same")
    other = save(model(seed=1), tmp_path / "other")
    scorer = Scorer((TASK,), tmp_path)
    found = scorer.folder(first)
    with torch.autocast("cpu", torch.bfloat16):
        assert found == [accuracy(model(), tokenizer(), TASK)]
    assert scorer.folder(same) == found and scorer.measured == 1
    scorer.folder(other)
    assert scorer.measured == 2


def test_a_merge_is_scored_like_a_folder_of_the_same_weights(tmp_path):
    first = save(model(), tmp_path / "first")
    other = save(model(seed=1), tmp_path / "other")
    scorer = Scorer((TASK,), tmp_path)
    merged = scorer.merged({"merge": 1}, first, lambda: Weights.read(other).tensors)
    assert merged == scorer.folder(other) and scorer.measured == 2
    assert scorer.merged({"merge": 1}, first, lambda: pytest.fail("merged again")) == merged
    with pytest.raises(InputError, match="misses"):
        scorer.merged({"merge": 2}, first, dict)
