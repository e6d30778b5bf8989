"""EMR-Merging, elected, masked and rescaled by hand."""

import pytest
import torch

from tests.merging.small import (
    close,
    ingredients,
)
from unmergeable.merging.emr import elected
from unmergeable.merging.methods import OWN


def test_emr_elects_masks_and_rescales():
    deltas = [torch.tensor([1.0, -3, 2, 0]), torch.tensor([2.0, 1, -1, 0])]
    close(elected(deltas), torch.tensor([2.0, -3, 2, 0]))

    def experts(base):
        moved = []
        for delta in deltas:
            changed = dict(base)
            changed["transformer.ln_f.bias"] = torch.cat([delta, torch.zeros(12)])
            moved.append(changed)
        return moved

    given = ingredients("gpt2", experts=experts)
    merged = OWN["emr"](given)
    ln = "transformer.ln_f.bias"
    close(merged.state[ln][:4], torch.tensor([2.0, -3, 2, 0]))
    # task 0 keeps all three, of 7, and had 6; task 1 keeps the first alone, of 2, and had 4
    close(merged.by_model[0][ln][:4], torch.tensor([2.0, -3, 2, 0]) * 6 / 7)
    close(merged.by_model[1][ln][:4], torch.tensor([2.0, 0, 0, 0]) * 4 / 2)
    assert dict(merged.by_model[0]).keys() == given.base.keys()
    with pytest.raises(KeyError):
        merged.by_model[0]["nothing"]
