"""TALL-masks and Consensus Merging by hand."""

import pytest
import torch

from tests.merging.small import (
    close,
    ingredients,
)
from unmergeable.errors import InputError
from unmergeable.merging.methods import OWN
from unmergeable.merging.tall_masks import mask


def test_tall_masks_and_consensus_by_hand():
    deltas = [torch.tensor([1.0, 1, 1, 0]), torch.tensor([1.0, -0.9, 0, 0])]
    summed = deltas[0] + deltas[1]  # 2, 0.1, 1, 0
    assert mask(deltas[0], summed, 0.4).tolist() == [True, True, True, False]
    assert mask(deltas[0], summed, 1.2).tolist() == [False, False, True, False]
    # |0| > λ·1 fails for the third, |-0.9| > 0.4·1 holds for the second
    assert mask(deltas[1], summed, 0.4).tolist() == [True, True, False, False]

    def experts(base):
        name = "transformer.ln_f.bias"
        return [{**base, name: torch.cat([d, torch.zeros(12)])} for d in deltas]

    given = ingredients("gpt2", experts=experts)
    ln = "transformer.ln_f.bias"
    for k, wanted in ((0, [2, 0.1, 1, 0]), (1, [2, 0.1, 1, 0]), (2, [2, 0.1, 0, 0]), (3, [0] * 4)):
        state = OWN["consensus_ta"](given, weight=0.5, k=k).state
        close(state[ln][:4], 0.5 * torch.tensor(wanted))
    uneven = OWN["consensus_ta"](given, weight=[1, 0], k=2).state
    close(uneven[ln][:4], torch.tensor([1.0, 1, 0, 0]))
    tall = OWN["tall_masks"](given)
    close(tall.state[ln][:4], summed)
    close(tall.by_model[0][ln][:4], torch.tensor([2.0, 0.1, 1, 0]))
    close(tall.by_model[1][ln][:4], torch.tensor([2.0, 0.1, 0, 0]))
    for name, wrong in (("consensus_ta", {"k": -1}), ("tall_masks", {"strength": -1})):
        with pytest.raises(InputError, match="0 or more"):
            OWN[name](given, **wrong)
