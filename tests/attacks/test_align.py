"""Alignment undoes an exact lock: of every family, of both kinds, without key and without data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.architectures.families import FAMILIES
from unmergeable.attacks.align import align
from unmergeable.keys import Key
from unmergeable.protection import protect

KEY = Key(bytes(range(32)))
TAU = 0.02  # size of the fine-tuning, relative to the weights: several times a usual one


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Base, expert and sibling of a family, made once."""
    made = {}

    def get(family):
        if family.name not in made:
            root = tmp_path_factory.mktemp(family.name)
            model = family.build()
            model.save_pretrained(root / "base")
            start = {name: w.clone() for name, w in model.named_parameters()}
            for seed, name in ((1, "expert"), (2, "sibling")):
                torch.manual_seed(seed)
                with torch.no_grad():
                    for key, w in model.named_parameters():
                        noise = torch.randn_like(w) * start[key].std() * TAU
                        w.copy_(start[key] + noise)
                model.save_pretrained(root / name)
            made[family.name] = root
        return made[family.name]

    return get


def distance(one, two):
    a, b = (load_file(folder / "model.safetensors") for folder in (one, two))
    return float(np.sqrt(sum(((a[k].double() - b[k].double()) ** 2).sum() for k in a)))


@pytest.mark.parametrize("anchor", ["base", "sibling"])
@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_lossless_lock_is_undone_to_the_bit(family, anchor, folders, tmp_path):
    root = folders(family)
    protect(root / "expert", tmp_path / "locked", KEY)
    report = align(tmp_path / "locked", tmp_path / "aligned", root / anchor)
    assert distance(tmp_path / "locked", root / "expert") > 10 * distance(
        root / "base", root / "expert"
    )
    assert distance(tmp_path / "aligned", root / "expert") == 0
    assert report.after < 2 * TAU < report.before


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_a_general_lock_is_undone_to_a_part_of_the_fine_tuning(family, folders, tmp_path):
    root = folders(family)
    protect(root / "expert", tmp_path / "locked", KEY, settings={"kind": "general"})
    align(tmp_path / "locked", tmp_path / "aligned", root / "base")
    tau = distance(root / "base", root / "expert")
    # What remains is gauge inside the heads, which are a large part of these small models.
    assert distance(tmp_path / "aligned", root / "expert") < 0.4 * tau
    assert distance(tmp_path / "locked", root / "expert") > 10 * tau
