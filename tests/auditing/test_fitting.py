"""Models of other words, labels and positions in the base's shapes."""

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from unmergeable.architectures.layout import Layout
from unmergeable.auditing.fitting import check_fits, fitted
from unmergeable.checkpoint.folder import open_folder
from unmergeable.errors import InputError
from unmergeable.keys.key import Key
from unmergeable.models.weights import Weights
from unmergeable.protection.protect import protect


def bert(folder, words=40, positions=16, width=32):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=words, hidden_size=width, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=48, max_position_embeddings=positions,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(folder)
    return open_folder(folder)


@pytest.mark.parametrize(("words", "positions"), [(41, 16), (39, 16), (40, 20), (43, 12)])
def test_an_encoder_of_other_words_and_positions_fits(tmp_path, words, positions):
    base, other = bert(tmp_path / "base"), bert(tmp_path / "other", words, positions)
    protect(other.path, tmp_path / "locked", Key(bytes(32)))
    layout, tensors = Layout.of_folder(base), Weights.read(base).tensors
    for folder in (other, open_folder(tmp_path / "locked")):
        check_fits(layout, base, folder)
        own, made = Weights.read(folder).tensors, fitted(Weights.read(folder), tensors).tensors
        assert {n: t.shape for n, t in made.items()} == {n: t.shape for n, t in tensors.items()}
        for name, one in made.items():
            part = tuple(slice(min(p)) for p in zip(one.shape, own[name].shape, strict=True))
            assert torch.equal(one[part], own[name][part])
            rest = one.clone()
            rest[part] = tensors[name][part]
            assert torch.equal(rest, tensors[name])
    apart = Weights.read(other).distance(Weights(tensors))
    assert apart == pytest.approx(Weights(tensors).distance_to(other))


def test_another_width_does_not(tmp_path):
    base, other = bert(tmp_path / "base"), bert(tmp_path / "other", width=64)
    with pytest.raises(InputError, match=r"\(64,\).*\(32,\).*words, labels and positions") as told:
        check_fits(Layout.of_folder(base), base, other)
    assert "\n" not in str(told.value)
